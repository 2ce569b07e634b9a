"""The messages of type checkers about right and wrong uses; ``make lint`` runs mypy on the whole project too."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from native_tests.node_programs import HERE as NODE

PROJECT = Path(__file__).parent.parent


def pyright(directory: Path, source: str) -> list[str]:
    """Return the messages of pyright in strict mode."""
    (directory / "uses.py").write_text(source)
    config = directory / "pyrightconfig.json"
    config.write_text(
        json.dumps(
            {
                "include": ["uses.py"],
                "extraPaths": [str(PROJECT)],
                "pythonPlatform": "Linux",
                "pythonVersion": "3.10",
                "typeCheckingMode": "strict",
            }
        )
    )
    node = shutil.which("node")
    assert node
    command = [node, str(NODE / "node_modules" / "pyright" / "index.js"), "--outputjson", "-p", str(config)]
    command += ["--pythonpath", sys.executable]
    ran = subprocess.run(command, capture_output=True, check=False, timeout=100)
    report = json.loads(ran.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    return [f"{each['range']['start']['line'] + 1}: {each['message']}" for each in report["generalDiagnostics"]]


WRONG = """\
Client(flsh_at=5)
Client(flush_at="5")
Client(when_full="explode")
Client(settings={"flush_at": 5})
configure(flsh_at=5)
configure("KEY", flush_at="5")
client.create_persistence_queue(queue_nam="q")
client.create_persistence_queue("redis://localhost", max_attempts="3")
segment.Client("KEY", flush_at=5)
rudderstack.Client("KEY", pipee="p")
client.track({"userId": "u"}, "event")
client.track({"userId": "u"}, event="event")
client.track("u", 5)
client.track("u", told)
client.track(["u"], "e")
client.track("u", "e", propertys={})
client.track("u", "e", {}, {}, None, None, None, 7)
client.identify("u", 5)
client.page({"userId": "u"}, {"name": "n"})
client.screen("u", 5)
client.group("u", {"plan": "pro"})
client.alias("p", {"userId": "u"})
client.preview("sing", "u")
wrong: dict[str, Any] = client.track("u", "e")
"""
"""Uses that a type checker must refuse, one in each line."""


def refused(source: str, lines: set[int]) -> list[str]:
    """Return the wrong uses in those lines of a source that begins with the right uses."""
    first = len(source.splitlines()) - len(WRONG.splitlines()) + 1
    return [line for number, line in enumerate(WRONG.splitlines(), first) if number in lines]


def with_wrong_uses() -> str:
    """Return the right uses, followed by the wrong ones."""
    return (PROJECT / "tests" / "typed_uses.py").read_text() + "\n\nclient = Client()\n" + WRONG


def test_mypy_refuses_every_wrong_use(directory: Path) -> None:
    """Each wrong use has a name or a type that the call or the setting does not take.

    The right uses give no message.
    """
    source = with_wrong_uses()
    (directory / "uses.py").write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(directory / "cache")]
    ran = subprocess.run(
        [*command, "--config-file", str(PROJECT / "pyproject.toml"), str(directory / "uses.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=PROJECT,
    )
    lines = {int(line.split(":")[1]) for line in ran.stdout.splitlines() if ": error: " in line}
    assert refused(source, lines) == WRONG.splitlines(), ran.stdout
    assert len(lines) == len(WRONG.splitlines()), ran.stdout


def test_pyright_refuses_every_wrong_use(directory: Path) -> None:
    """Editors show the messages of pyright."""
    source = with_wrong_uses()
    found = pyright(directory, source)
    assert refused(source, {int(line.split(":")[0]) for line in found}) == WRONG.splitlines(), "\n".join(found)


def test_pyright_accepts_the_right_uses(directory: Path) -> None:
    """In strict mode no type is unknown or partially known."""
    uses = (PROJECT / "tests" / "typed_uses.py").read_text()
    found = pyright(directory, uses)
    assert found == [], "\n".join(found)
