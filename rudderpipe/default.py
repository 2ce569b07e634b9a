"""The process's default client, for applications that want one and no object to pass around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rudderpipe.client import Client

_default: Client | None = None


def configure(*arguments: Any, **settings: Any) -> Client:
    """Make the default client; arguments and errors are those of ``Client``. One made before is shut down."""
    global _default  # that is what it is
    before, _default = _default, Client(*arguments, **settings)
    if before is not None:
        before.shutdown()
    return _default


def default_client() -> Client:
    """The one that ``configure`` made, else one by ``RUDDERPIPE_*`` variables. Raises ``SettingsError``."""
    global _default  # as above
    if _default is None:
        _default = Client()
    return _default


def counts() -> Mapping[str, int]:
    """Those of the default client; empty while there is none."""
    return {} if _default is None else _default.counts()
