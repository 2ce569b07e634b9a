"""Random damage to a job's data, as a careless or hostile program might do it. Some results are still JSON."""

from __future__ import annotations

import json
import random

from rudderpipe._version import USER_AGENT

TOKENS = [
    *(b'"half \\\\ud83d"', b"\\\\ude00", b"\\ud83d", b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\\\\u0000", b"\n"),
    *(b"{}", b"[]", b"null", b"7", b"-", b"1e999", b"-0", b"01", b"NaN", b"Infinity", b"9" * 400, b"1" + b"0" * 5000),
    *(b'\\"', b'"', b"\\", b",", b":", b"{", b"}", b"[" * 300, b"[" * 1100 + b"]" * 1100, b'{\\"a\\":' * 1100),
    *(b'{\\"guilty\\":1}', b"guilty", b'\\"attempts\\":9,', b'\\"attempts\\":-1e5,', b'\\"timeout\\":1e308,'),
    *(
        b'\\"request\\":{},',
        b'\\"batch\\":[{}],',
        b'\\"jobId\\":{},',
        b'\\"sentAt\\":1,',
        b'\\"auth\\":{\\"username\\":7},',
    ),
    *(b'"version":4,', b'"eventData":{},', USER_AGENT.encode(), "\u2028\U0001f600".encode()),
]
WORDS = [b"batch", b"request", b"data", b"auth", b"username", b"KEY", b"attempts", b"jobId", b"version", b"eventData"]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Change the data at one to four random places, mostly as a careless program would."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at, end = sorted(dice.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + dice.choice((1, 3, 30, 3000)))
        kind = dice.randrange(8)
        if kind == 0:
            data = data[:at] + dice.choice(TOKENS) + data[at:]
        elif kind == 1:
            data = data[:at] + dice.choice(TOKENS) + data[end:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
        elif kind == 5:
            data = data[:at]
        elif kind == 6:
            word = dice.choice(WORDS)
            data = data.replace(word, dice.choice((dice.choice(WORDS), dice.choice(TOKENS))), dice.choice((1, -1)))
        else:  # kind 7 changes the beginning of a field's value
            places = [place for place in range(len(data) - 3) if data[place : place + 3] in (b'":{', b'":[', b'":"')]
            if places:
                place = dice.choice(places) + 2
                data = data[:place] + dice.choice(TOKENS) + data[place + dice.choice((0, 1)) :]
    return data


def is_json(body: bytes) -> bool:
    """Return True for JSON of any depth, with numbers of any size."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(body.decode(), parse_int=str, parse_float=str, parse_constant=refuse)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True
