"""The metrics in processes of their own, with a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.fakes import settings_of


def test_nothing_is_written_where_an_application_keeps_its_metrics(tmp_path: Path) -> None:
    """prometheus-client writes files of its own there for each metric that it counts itself."""
    settings = settings_of(tmp_path)
    folder = tmp_path / "multiproc"
    folder.mkdir()
    program = (
        "from rudderpipe.observe import metrics\nfrom rudderpipe.settings import Settings\n"
        f"print(len(metrics.text(Settings(pipe={settings.pipe!r}, runtime_dir={settings.runtime_dir!r})).content))\n"
        f"metrics.collector()"
    )
    variables = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}

    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)

    assert int(done.stdout) > 1000
    assert list(folder.iterdir()) == []
