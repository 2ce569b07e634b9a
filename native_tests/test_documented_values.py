"""The table of values in docs/client.md, row by row, with the real numpy and pandas, from a call to the data plane."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from native_tests.processes import Processes
from rudderpipe import Client, EventError

PAGE = Path(__file__).parent.parent / "docs" / "client.md"
HEAD = "| value | as an id | as `timestamp` | in `properties` |"
NAMES = {
    "math": math,
    "np": np,
    "pd": pd,
    "date": date,
    "datetime": datetime,
    "timedelta": timedelta,
    "timezone": timezone,
    "Decimal": Decimal,
    "UUID": UUID,
}
REFUSED, MISSING = "refused", "missing"


class Row(NamedTuple):
    """A row of the table: a value as it is written in Python, and what it becomes in each place."""

    written: str
    as_id: str
    as_moment: str
    as_property: str


def rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    for line in PAGE.read_text().split(HEAD)[1].splitlines()[2:]:
        if not line.startswith("|"):
            return
        yield Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|")))


def call(client: Client, *arguments: Any, **named: Any) -> bool:
    """Return whether a strict client accepted the event."""
    try:
        return bool(client.track(*arguments, **named))
    except EventError:
        return False


def found(accepted: bool, message: dict[str, Any] | None, name: str) -> str:
    """Return what became of a value, in the words of the table."""
    assert accepted == (message is not None)
    if message is None:
        return REFUSED
    return json.dumps(message[name]) if name in message else MISSING


@pytest.fixture(name="client")
def _client(processes: Processes) -> Client:
    return processes.client(strict=True)


def arrived(client: Client, processes: Processes) -> dict[str, dict[str, Any]]:
    """Return the events at the data plane by their message ids."""
    assert client.flush(30, until="delivered")
    events = [event for body in processes.plane.last_events() for event in json.loads(body)["batch"]]
    return {event["messageId"]: event for event in events}


def test_a_value_becomes_what_the_table_says(client: Client, processes: Processes) -> None:
    """Each value is given as an id, as a time and in the properties, and is looked at where it arrived."""
    table = list(rows())
    accepted = {}
    for row in table:
        value = eval(row.written, dict(NAMES))
        accepted["id", row.written] = call(client, value, "e", anonymous_id="a", message_id=f"id {row.written}")
        accepted["moment", row.written] = call(client, "u", "e", timestamp=value, message_id=f"moment {row.written}")
        accepted["property", row.written] = call(client, "u", "e", {"v": value}, message_id=f"property {row.written}")

    events = arrived(client, processes)

    assert len(table) > 30
    for row in table:
        in_properties = events.get(f"property {row.written}", {}).get("properties")
        assert row == Row(
            row.written,
            found(accepted["id", row.written], events.get(f"id {row.written}"), "userId"),
            found(accepted["moment", row.written], events.get(f"moment {row.written}"), "timestamp"),
            found(accepted["property", row.written], in_properties, "v"),
        )


def test_the_rows_of_a_data_frame_are_events(client: Client, processes: Processes) -> None:
    """A column of ids with a gap has floats, and a row without an id is no user."""
    frame = pd.DataFrame(
        {
            "user": [5, np.nan, 7],
            "at": pd.to_datetime(["2026-01-02T03:04:05", "2026-01-02T00:00:00", None]),
            "price": pd.array([1, 2, None], dtype="Int64"),
            "name": ["a", None, "c"],
        }
    )
    accepted = []
    for number, row in enumerate(frame.to_dict("records")):
        moment = None if pd.isna(row["at"]) else row["at"]
        accepted.append(call(client, row["user"], "Bought", row, timestamp=moment, message_id=str(number)))

    events = arrived(client, processes)

    assert accepted == [True, False, True]
    assert [events[number]["userId"] for number in ("0", "2")] == ["5", "7"]
    assert events["0"]["timestamp"] == "2026-01-02T03:04:05Z"
    assert events["0"]["properties"] == {"user": 5, "at": "2026-01-02T03:04:05Z", "price": 1, "name": "a"}
    assert "timestamp" not in events["2"]
    assert events["2"]["properties"] == {"user": 7, "at": None, "price": None, "name": "c"}


def test_an_array_is_a_list(client: Client, processes: Processes) -> None:
    """A matrix is a list of lists, and a Series of moments is a list of texts."""
    properties = {
        "matrix": np.array([[1.5, np.nan], [np.inf, 2]]),
        "moments": pd.Series(pd.to_datetime(["2026-01-02", None])),
        "categories": pd.Categorical(["a", "b"]),
        "by number": {np.int64(1): np.float32(0.5)},
    }
    assert call(client, "u", "e", properties, message_id="arrays")

    assert arrived(client, processes)["arrays"]["properties"] == {
        "matrix": [[1.5, None], [None, 2]],
        "moments": ["2026-01-02T00:00:00Z", None],
        "categories": ["a", "b"],
        "by number": {"1": 0.5},
    }
