"""The alerts and the metrics by Prometheus's own tool."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import settings_of

RULES = Path(__file__).parent.parent / "docs" / "deploy" / "prometheus"
pytest.importorskip("prometheus_client", reason="needs the extra metrics")


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    """Run promtool. Return what it printed, and fail with that if it found something."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on this machine; Debian has it in the package prometheus")
    done = subprocess.run([program, *arguments], input=stdin, cwd=RULES, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_rules_are_valid() -> None:
    """Each expression is parsed, and each template of a text."""
    assert "17 rules found" in promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_when_it_must_and_only_then() -> None:
    """The cases are in tests.yml, one for each trouble, with the exact list of alerts that fire."""
    assert "SUCCESS" in promtool("test", "rules", "tests.yml")


def test_the_text_follows_prometheus_s_own_rules(tmp_path: Path) -> None:
    """Names, units, help and types."""
    settings = settings_of(tmp_path)
    command = [sys.executable, "-m", "rudderpipe", "metrics", "--pipe", str(settings.pipe)]
    command += ["--runtime-dir", str(tmp_path), "--redis", "redis://127.0.0.1:1"]
    text = subprocess.run(command, capture_output=True, check=True).stdout

    assert promtool("check", "metrics", stdin=text) == ""
