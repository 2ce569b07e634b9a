"""What autodoc does not know by itself: settings in words, keys of messages, links to pages."""

from __future__ import annotations

import re
from typing import Any, get_type_hints, is_typeddict

import msgspec
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation
from typing_extensions import Unpack

from rudderpipe import client
from rudderpipe.cli import options
from rudderpipe.contrib import asgi
from rudderpipe.settings import ENVIRONMENT_PREFIX, Settings, mistakes
from rudderpipe.settings.arguments import QueueArguments, SettingsArguments
from rudderpipe.settings.redis_url import RedisAddress

SWITCHES = {
    "enable": "false: check and count events, but start nothing and send nothing",
    "sync_mode": "true: deliver each event within its call, without another process",
    "strict": "true: raise the error of a refused event, for tests",
    "trace_context": "true: add the ids of OpenTelemetry's current span to the context of each event",
}
"""What those settings do that are no options of a command."""
SENTENCES = {**SWITCHES, **{name: does for group in options.GROUPS.values() for name, does in group.items()}}
MUST_BE = {name: mistakes.must_be(Settings, name).removeprefix("must be ") for name in Settings.__struct_fields__}
_MODULE = re.compile(r"~(?:\w+\.)+")
_PAGE = re.compile(r"``docs/(\w+)\.md``")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    vars(client).update(Unpack=Unpack, SettingsArguments=SettingsArguments, QueueArguments=QueueArguments)
    vars(asgi).update(Client=client.Client)  # as above, what only type checkers import otherwise
    for each in (Settings, RedisAddress):
        each.__annotations__.update(get_type_hints(each))  # without the bounds, which MUST_BE has in words
    app.connect("autodoc-process-docstring", _describe)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True}


def _describe(_app: Sphinx, _what: str, name: str, value: object, _options: object, lines: list[str]) -> None:
    """Add to a docstring what the code says elsewhere, and make links of the names of pages."""
    owner, _, field = name.rpartition(".")
    if owner == "rudderpipe.Settings" and field in MUST_BE:
        lines[:] = _setting(field)
    if owner == "rudderpipe.RedisAddress" and field in RedisAddress.__struct_fields__:
        lines[-1:] = [f"Default: ``{getattr(RedisAddress(), field)!r}``.", ""]
    if is_typeddict(value):
        lines += _keys(value)
    lines[:] = [_PAGE.sub(r":doc:`/\1`", line) for line in lines]


def _setting(name: str) -> list[str]:
    """Return what a setting does, which values it takes, its default and its variable."""
    default = options.DEFAULTS.get(name) or f"``{msgspec.json.encode(getattr(Settings(), name)).decode()}``"
    values = [] if MUST_BE[name] in ("text", "true or false") else [f"Values: {MUST_BE[name]}."]
    facts = [*values, f"Default: {default}.", f"Variable: ``{ENVIRONMENT_PREFIX}{name.upper()}``."]
    return [SENTENCES[name], "", " ".join(facts)]


def _keys(message: Any) -> list[str]:
    """Return a list of the keys of a typed mapping, with their types; those that must be given come first."""
    types = {
        name: _MODULE.sub("", stringify_annotation(each, "smart")) for name, each in get_type_hints(message).items()
    }
    needed = sorted(message.__required_keys__)
    rows = [f"* ``{name}``: ``{types[name]}``, must be given" for name in needed]
    return [*rows, *(f"* ``{name}``: ``{each}``" for name, each in types.items() if name not in needed), ""]


def _shorten(_app: Sphinx, _what: str, _name: str, value: object, *_: object) -> tuple[str, None] | None:
    """Leave the signature of a struct out, because its fields are listed below it."""
    return ("", None) if isinstance(value, type) and issubclass(value, msgspec.Struct) else None
