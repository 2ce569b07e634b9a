"""What type checkers say: mypy reads all of the project in ``make lint``; pyright reads the uses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from native_tests.node_programs import HERE as NODE

PROJECT = Path(__file__).parent.parent


def pyright(directory: Path, source: str) -> list[str]:
    """What it has to say, strict."""
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


def test_pyright_strict_is_content_with_the_uses(directory: Path) -> None:
    """Nothing is unknown, partially known, or wrong; and a wrong use is."""
    uses = (PROJECT / "tests" / "typed_uses.py").read_text()
    found = pyright(directory, uses)
    assert found == [], "\n".join(found)
    said = pyright(directory, uses + '\n\nwrong: str = Client().track("u", 5)\n')
    assert len(said) == 2
    assert any('"bool" is not assignable to "str"' in line for line in said)
