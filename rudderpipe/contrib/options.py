"""The creation of a client from one mapping, such as a framework's settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rudderpipe.client import Client
from rudderpipe.settings import Settings

_ARGUMENTS = frozenset(
    name
    for name, parameter in inspect.signature(Client).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD
)


def client_of(options: Mapping[str, Any], make: Callable[..., Client] = Client) -> Client:
    """Return a client from arguments of ``Client`` and settings with our names or the Node SDK's.

    Raise ``SettingsError``.
    """
    arguments = {name: value for name, value in options.items() if name in _ARGUMENTS}
    settings = {name: value for name, value in options.items() if name not in _ARGUMENTS}
    # With one of the Node SDK's names, all names are read as the Node SDK reads them: "path" then needs no slash.
    if settings.keys() <= set(Settings.__struct_fields__):
        return make(**arguments, **settings)
    return make(**{**arguments, "options": {**settings, **(arguments.get("options") or {})}})
