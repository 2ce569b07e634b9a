"""The mapping: which column of a record becomes which field of a message, with which type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rudderpipe.errors import SettingsError
from rudderpipe.ingestion.conversion import CONVERTERS, Convert, Unfit, time_converter
from rudderpipe.ingestion.formats import shown
from rudderpipe.messages.wire import WIRE_NAMES

KINDS = ("identify", "track", "page", "screen", "group", "alias")
ALL = "*"
CONSTANT = "const:"
_IDS = ("userId", "anonymousId", "groupId", "previousId", "messageId")
_TEXTS = (*_IDS, "type", "event", "name", "category")
_TIMES = ("timestamp", "originalTimestamp")
_CONTAINERS = ("properties", "traits", "context", "integrations")
_FIELDS = (*_TEXTS, *_TIMES, *_CONTAINERS)

Row = Sequence[Any]
ToMessage = Callable[[Row], dict[str, Any]]
"""Return the message of a row; raise ``Unfit``."""


class _Field(NamedTuple):
    path: tuple[str, ...]
    column: str
    convert: Convert | None
    option: str


class Mapping:
    """What ``--map``, ``--event``, ``--type`` and ``--timestamp`` say, checked against each other."""

    def __init__(self) -> None:
        self._fields: list[_Field] = []
        self._constants: dict[tuple[str, ...], Any] = {}
        self._rest: list[tuple[str, ...]] = []

    def for_columns(self, columns: Sequence[str]) -> ToMessage:
        """Return the conversion of the rows of a table; raise ``SettingsError`` for a column that it does not have.

        A cell of a row is text, and an empty one is left out.
        """
        self.check(columns)
        rest = [name for name in columns if name not in self.columns]
        leaves = [(columns.index(each.column), each) for each in self._fields]
        for path in self._rest:
            extra = (_Field((*path, name), name, None, "") for name in rest if name)
            leaves += [(columns.index(each.column), each) for each in extra]
        return _Node(leaves, self._constants).builder("")

    def for_records(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Return the conversion of mappings of values, where None is left out.

        A column is a key, or a path of keys with dots between them.
        """
        names = list(dict.fromkeys(each.column for each in self._fields))
        used = frozenset(name.split(".")[0] for name in names) | frozenset(names)
        build = _Node([(names.index(each.column), each) for each in self._fields], self._constants).builder(None)
        nested = [name.split(".") if "." in name else None for name in names]

        def message(record: dict[str, Any]) -> dict[str, Any]:
            row = [
                record.get(name) if path is None or name in record else _inner(record, path)
                for name, path in zip(names, nested, strict=True)
            ]
            found = build([None if cell != cell else cell for cell in row])
            for path in self._rest:
                others = {
                    name: value
                    for name, value in record.items()
                    if name not in used and value is not None and value == value
                }
                if others:
                    target = found
                    for step in path[:-1]:
                        target = target.setdefault(step, {})
                    target[path[-1]] = {**others, **target.get(path[-1], {})}
            return found

        return message

    def top_columns(self, names: Sequence[str]) -> list[str]:
        """Return the columns that must be read for ``for_records``, in their order; raise ``SettingsError``."""
        wanted = set()
        for each in self._fields:
            top = each.column if each.column in names else each.column.split(".")[0]
            if top not in names:
                raise _no_column(each, names)
            wanted.add(top)
        return [name for name in names if self._rest or name in wanted] or [*names[:1]]

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that are mapped."""
        return frozenset(each.column for each in self._fields)

    def check(self, columns: Sequence[str]) -> None:
        """Raise ``SettingsError`` for a mapped column that is not there, or is there twice."""
        for each in self._fields:
            if each.column not in columns:
                raise SettingsError(
                    each.option, f"there is no column {each.column}; the columns are {shown([*columns])}"
                )
            if columns.count(each.column) > 1:
                raise SettingsError(each.option, f"there are several columns {each.column}")

    def check_keys(self, records: Iterable[dict[str, Any]]) -> None:
        """Raise ``SettingsError`` if no record has the key of a field that is needed; others may be rare."""
        rows = list(records)
        for each in self._fields:
            if len(each.path) > 1 or each.path[0] in _CONTAINERS or not rows:
                continue
            path = each.column.split(".")
            if all(each.column not in row and _inner(row, path) is None for row in rows):
                keys = list(dict.fromkeys(key for row in rows for key in row))
                raise SettingsError(each.option, f"no record has a key {each.column}; the keys are {shown(keys)}")

    def add(self, text: str) -> None:
        """Add one ``--map TARGET=COLUMN[:TYPE]``; raise ``SettingsError``."""
        target, equals, column = text.partition("=")
        target = target.strip()
        if not equals or not target or not column:
            raise SettingsError("--map", "must be TARGET=COLUMN, such as userId=customer_id")
        path = tuple(target.split("."))
        self._check_target(path, target)
        if column == ALL:
            if path[0] not in _CONTAINERS:
                raise SettingsError("--map", f"{target}=* is only for {', '.join(_CONTAINERS)}")
            self._rest.append(path)
            return
        name, colon, kind = column.rpartition(":")
        if not colon or kind not in CONVERTERS:
            name, kind = column, ""
        convert = self._converter(path, kind)
        if name.startswith(CONSTANT):
            self.add_constant("--map", path, name.removeprefix(CONSTANT), convert)
        else:
            self.add_column("--map", path, name, convert)

    def add_column(self, option: str, path: tuple[str, ...], column: str, convert: Convert | None) -> None:
        """Map a column to a field; raise ``SettingsError`` if the field has a value already."""
        self._check_new(option, path)
        self._fields.append(_Field(path, column, convert, option))

    def add_constant(self, option: str, path: tuple[str, ...], text: str, convert: Convert | None = None) -> None:
        """Give a field the same value in every message; raise ``SettingsError`` for one that does not fit its type."""
        self._check_new(option, path)
        try:
            self._constants[path] = convert(text) if convert else text
        except Unfit as error:
            raise SettingsError(option, f"the value of {'.'.join(path)} {error}") from None

    def complete(self, time_format: str | None) -> None:
        """Set what follows from the options, and raise ``SettingsError`` for a field that every message needs."""
        self._convert_time = time_converter(time_format)
        self._fields = [
            each._replace(convert=self._convert_time) if each.convert is CONVERTERS["datetime"] else each
            for each in self._fields
        ]
        has = {each.path[0] for each in self._fields} | {path[0] for path in self._constants}
        if "type" not in has:
            if "event" not in has:
                raise SettingsError("--event", "must be given, or --type for messages that are no track")
            self._constants[("type",)] = "track"
        kind = self._constants.get(("type",))
        if kind == "track" and "event" not in has:
            raise SettingsError("--event", "must be given for track, or --map event=COLUMN")
        for name in {"group": ("groupId",), "alias": ("userId", "previousId")}.get(kind or "", ()):
            if name not in has:
                raise SettingsError("--map", f"{name} must be mapped for {kind}, such as --map {name}=COLUMN")
        if not has & {"userId", "anonymousId"}:
            reason = "userId or anonymousId must be mapped, such as --map userId=customer_id"
            raise SettingsError("--map", f"{reason}, or --map userId=const:ID for all records")

    def _check_target(self, path: tuple[str, ...], target: str) -> None:
        first = path[0]
        if first not in _FIELDS:
            hint = WIRE_NAMES.get(first)
            known = f"did you mean {hint}?" if hint else f"the fields of a message are {', '.join(_FIELDS)}"
            raise SettingsError("--map", f"{target} is no field of a message; {known}")
        if not all(path) or (len(path) > 1 and first not in _CONTAINERS):
            raise SettingsError("--map", f"{target} is no field of a message")

    def _check_new(self, option: str, path: tuple[str, ...]) -> None:
        for other in (*self._constants, *(each.path for each in self._fields)):
            if other[: len(path)] == path[: len(other)]:
                raise SettingsError(option, f"{'.'.join(path)} has a value already, from {'.'.join(other)}")

    @staticmethod
    def _converter(path: tuple[str, ...], kind: str) -> Convert | None:
        if path[0] in _TIMES:
            return CONVERTERS["datetime"]
        if kind:
            return None if kind == "str" and path[0] in _TEXTS else CONVERTERS[kind]
        return None


def parse(
    maps: Sequence[str] = (),
    *,
    event: str | None = None,
    type: str | None = None,  # noqa: A002  # the name of the option
    timestamp: str | None = None,
    timestamp_format: str | None = None,
) -> Mapping | None:
    """Return the mapping that the options describe, or None if none is given; raise ``SettingsError``.

    ``maps`` has the values of ``--map``. ``timestamp`` names the column with the time of an event, which becomes
    ``timestamp``, the field that the server keeps, and ``originalTimestamp``.
    """
    if not maps and event is None and type is None and timestamp is None:
        if timestamp_format is not None:
            raise SettingsError("--timestamp-format", "is of no use without --timestamp or --map")
        return None
    found = Mapping()
    if type is not None:
        if type not in KINDS:
            raise SettingsError("--type", f"must be one of {', '.join(KINDS)}")
        found.add_constant("--type", ("type",), type)
    if event is not None:
        found.add_constant("--event", ("event",), event)
    if timestamp is not None:
        for name in _TIMES:
            found.add_column("--timestamp", (name,), timestamp, CONVERTERS["datetime"])
    for text in maps:
        found.add(text)
    found.complete(timestamp_format)
    return found


class _Node:
    """One level of a message: its columns, its constants, and the levels below."""

    def __init__(self, leaves: Sequence[tuple[int, _Field]], constants: dict[tuple[str, ...], Any], depth: int = 0):
        deeper = [(index, each) for index, each in leaves if len(each.path) > depth + 1]
        deeper_constants = {path: value for path, value in constants.items() if len(path) > depth + 1}
        names = dict.fromkeys((*(each.path[depth] for _, each in deeper), *(path[depth] for path in deeper_constants)))
        self.leaves = [
            (index, each.path[depth], each.convert, each) for index, each in leaves if len(each.path) == depth + 1
        ]
        self.constants = {path[depth]: value for path, value in constants.items() if len(path) == depth + 1}
        self.below: list[tuple[str, _Node]] = []
        for name in names:
            own = [(index, each) for index, each in deeper if each.path[depth] == name]
            own_constants = {path: value for path, value in deeper_constants.items() if path[depth] == name}
            self.below.append((name, _Node(own, own_constants, depth + 1)))

    def builder(self, empty: Any) -> ToMessage:
        """Return a function from a row to this level's dict; cells that equal ``empty`` are left out."""
        leaves, constants = self.leaves, self.constants
        below = [(name, node.builder(empty)) for name, node in self.below]

        def build(row: Row) -> dict[str, Any]:
            found = constants.copy()
            for index, name, convert, field in leaves:
                if (cell := row[index]) != empty:
                    if convert is None:
                        found[name] = cell
                        continue
                    try:
                        found[name] = convert(cell)
                    except Unfit as error:
                        raise Unfit(f"column {field.column} {error}") from None
            for name, inner in below:
                if part := inner(row):
                    found[name] = part
            return found

        return build


def _no_column(field: _Field, names: Sequence[str]) -> SettingsError:
    return SettingsError(field.option, f"there is no column {field.column}; the columns are {shown([*names])}")


def _inner(record: Any, path: Sequence[str]) -> Any:
    """Return a value within nested mappings, None if it is not there."""
    for step in path:
        if type(record) is not dict:
            return None
        record = record.get(step)
    return record
