"""The two forms of a log entry, text and JSON, from the one template that a call of the logger gives.

A template is a constant text, what happened, followed by ``name=%s`` for each fact. The text form shows both as they
stand. The JSON form has the text as ``msg`` and each fact as a field with its own type.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import Any

import msgspec

from rudderpipe.log_text import LOG_SHOWN, one_line
from rudderpipe.process.clock import iso_ms
from rudderpipe.settings import Settings

TEXT = "%(asctime)s %(name)s %(levelname)s %(message)s"
_CONVERSION = re.compile(r"%(?!%)[-+#0 ]*\d*(?:\.\d+)?[a-zA-Z]")
_FIELDS = re.compile(rf"(?: [a-z_]+={_CONVERSION.pattern})+$")
_NAME = re.compile(r" ([a-z_]+)=%")


def of(settings: Settings, component: str, queue: str = "") -> logging.Formatter:
    """Return the form that the settings ask for; ``component`` is ``flusher``, ``sender`` or ``web``.

    ``queue`` is in each text entry, where the processes of several queues write into one log. JSON always has it.
    """
    if settings.log_format == "text":
        own = one_line(queue).replace("%", "%%")
        return logging.Formatter(TEXT.replace("%(message)s", f"[{own}] %(message)s") if queue else TEXT)
    return JsonFormat(component, settings)


class JsonFormat(logging.Formatter):
    """One JSON object for each entry: the same facts as in the text form, and whose entry it is."""

    def __init__(self, component: str, settings: Settings) -> None:
        super().__init__()
        queue = f"{settings.prefix}:{settings.queue_name}" if settings.redis is not None else None
        self._own = {
            "component": component,
            "pipe": settings.pipe if component == "sender" else settings.pipe_name,
            "queue": queue,
            "host": socket.gethostname(),
        }

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry, without a line break."""
        message, fields = split(record)
        entry: dict[str, Any] = {
            "ts": iso_ms(int(record.created * 1000)),
            "level": record.levelname,
            "logger": record.name,
            "msg": message,
            **self._own,
            "pid": record.process,
            **fields,
        }
        if record.exc_info:
            entry["exc"] = record.exc_text or self.formatException(record.exc_info)
        return msgspec.json.encode({name: value for name, value in entry.items() if value is not None}).decode()


def split(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """Return an entry's text and its facts."""
    template, values = str(record.msg), record.args
    found = _FIELDS.search(template)
    if found is None or not isinstance(values, tuple):
        return record.getMessage(), {}
    names = _NAME.findall(found[0])
    first = len(values) - len(names)
    text = template[: found.start()]
    message = text % values[:first] if first else text.replace("%%", "%")
    return message, {name: _plain(value) for name, value in zip(names, values[first:], strict=True)}


def _plain(value: object) -> Any:
    """Return a value that JSON has; any other one as safe text."""
    return value if isinstance(value, (bool, int, float)) else one_line(str(value), LOG_SHOWN)
