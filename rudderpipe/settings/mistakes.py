"""What is said of a wrong setting: the value that it must have, and the name that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from rudderpipe import log_text
from rudderpipe.errors import SettingsError

SWITCH_WORDS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}
"""What a variable or an option may say instead of true and false."""
_GIVEN = re.compile(r"^Expected .*, got `(\w+)`$")
_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number with a fraction",
    "str": "text",
    "object": "a mapping",
    "array": "a list",
    "bytes": "bytes",
}
"""Words for the types in msgspec's messages."""
_UNKNOWN_FIELD = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_warned: set[str] = set()


def meant(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean …?`` with the known word that is nearest, or an empty text if none is near.

    ``prefix`` is shown before the word, and is not compared.
    """
    from difflib import get_close_matches  # here, because only a mistake needs it

    nearest = get_close_matches(word, list(known), 1, 0.6)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""


def unknown(name: str, known: Iterable[str], instead: str = "docs/settings.md lists all settings") -> SettingsError:
    """Return the error of an unknown name, which names the nearest known one."""
    said = meant(_snake(name), known) or f"; {instead}"
    return SettingsError(name, f"is unknown{said}")


def warn_of_variables(environment: Mapping[str, str], prefix: str, known: Collection[str]) -> None:
    """Log each variable with this prefix that is not a known one, once in a process."""
    for variable, nearest in unknown_variables(environment, prefix, known).items():
        if variable not in _warned:
            _warned.add(variable)
            said = "the variable %s is ignored, because no setting has this name%s"
            log_text.logger().warning(said, log_text.one_line(variable, 100), nearest)


def unknown_variables(environment: Mapping[str, str], prefix: str, known: Collection[str]) -> dict[str, str]:
    """Return the variables with this prefix that are not known ones, each with what ``meant`` returns for it."""
    names = [each.removeprefix(prefix) for each in known]
    found = [variable for variable in environment if variable.startswith(prefix) and variable not in known]
    return {variable: meant(variable.removeprefix(prefix), names, prefix) for variable in found}


def of_conversion(
    error: msgspec.ValidationError, owner: type[msgspec.Struct], nested: type[msgspec.Struct]
) -> SettingsError:
    """Return the error of a mapping that is no ``owner``; its one mapping, ``redis``, is no ``nested``."""
    reason, _, path = str(error).partition(" - at `$")
    name = re.sub(r"\[.*?\]", "", path).strip("`.") or "?"
    if found := _UNKNOWN_FIELD.match(reason):
        return SettingsError(name, f"has an unknown key {found[1]}{meant(found[1], nested.__struct_fields__)}")
    outer, _, inner = name.partition(".")
    return SettingsError(name, must_be(nested, inner, reason) if inner else must_be(owner, outer, reason))


def must_be(owner: type[msgspec.Struct], name: str, reason: str = "") -> str:
    """Return what the value of a field must be, in words. ``reason`` is msgspec's; it shows the type of the value."""
    types = {field.name: field.type for field in msgspec.structs.fields(owner)}
    said = f"must be {_words(types[name])}" if name in types else "has a wrong value"
    given = _GIVEN.match(reason)
    return f"{said}, not {_KINDS[given[1]]}" if given and given[1] in _KINDS else said


def _words(type_: Any, bounds: msgspec.Meta | None = None) -> str:
    """Return in words which values a type allows, within its bounds."""
    if bounds is not None and bounds.description:
        return bounds.description
    members = [member for member in get_args(type_) if member is not type(None)]
    if get_origin(type_) is Annotated:
        return _words(members[0], members[1])
    if get_origin(type_) is Literal:
        return f"one of {', '.join(map(repr, members))}"
    if get_origin(type_) in (Union, UnionType):
        return " or ".join(map(_words, members))
    if type_ is bool:
        return "true or false"
    if type_ in (int, float):
        return _number("a whole number" if type_ is int else "a number", bounds or msgspec.Meta())
    if get_origin(type_) is tuple:
        return "a list of texts"
    return f"text of {bounds.min_length} to {bounds.max_length} characters" if bounds is not None else "text"


def _number(kind: str, bounds: msgspec.Meta) -> str:
    if bounds.gt is not None:
        return f"{kind} above {bounds.gt}, at most {bounds.le}"
    if bounds.le is None:
        return f"{kind} of at least {bounds.ge}"
    return f"{kind} from {bounds.ge} to {bounds.le}"


def switch_of(name: str, text: str) -> bool:
    """Return the value of a switch from the text of a variable or an option. Raise ``SettingsError``."""
    value = SWITCH_WORDS.get(text.lower())
    if value is None:
        raise SettingsError(name, "must be true or false (also yes or no, on or off, 1 or 0)")
    return value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
