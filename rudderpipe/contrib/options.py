"""A client from one mapping, as frameworks keep their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rudderpipe.client import Client


def client_of(options: Mapping[str, Any], make: Callable[..., Client] = Client) -> Client:
    """The Node SDK's names have capitals; the rest are arguments of ``Client``. Raises ``SettingsError``."""
    nodes = {name: value for name, value in options.items() if not name.islower()}
    own = {name: value for name, value in options.items() if name.islower()}
    return make(options=nodes, **own) if nodes else make(**own)
