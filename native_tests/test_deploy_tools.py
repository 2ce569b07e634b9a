"""The recipes of docs/deploy by the tools that read such files elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from native_tests.deployed import BIN, RECIPES, manifests

compose_spec: Any = pytest.importorskip("compose_spec", reason="needs the extra dev")
kubernetes_validate: Any = pytest.importorskip("kubernetes_validate", reason="needs the extra dev")

UNITS = {
    "rudderpipe-flusher@.service": "rudderpipe-flusher@shop.service",
    "rudderpipe-sender@.service": "rudderpipe-sender@shop.service",
    "rudderpipe-web@.service": "rudderpipe-web@shop.service",
    "shop.service": "shop.service",
}
EXPOSURE = 20
"""In tenths of systemd's scale, on which 10 is a unit without any restriction."""
VERSIONS = ("1.29", "1.31", "1.34")
"""Of Kubernetes: the first one with native sidecars switched on, and later ones."""
MANIFESTS = ("shop.yaml", "sender.yaml")


@pytest.fixture(name="units")
def _units(tmp_path: Path) -> Path:
    """Return a folder with the units, whose programs exist on this machine."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine; Debian has it in the package systemd")
    for template, name in UNITS.items():
        text = (RECIPES / "systemd" / template).read_text()
        for path in (tmp_path / template, tmp_path / name):
            path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE))
    return tmp_path


def analyze(units: Path, *arguments: str) -> str:
    """Run systemd-analyze, and return what it printed if it found nothing wrong."""
    done = subprocess.run(
        ["systemd-analyze", *arguments], cwd=units, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_systemd_knows_every_line_of_the_units(units: Path) -> None:
    """It ignores a line that it does not know, with a warning that few people read."""
    assert analyze(units, "verify", *(f"./{name}" for name in UNITS.values())) == ""


@pytest.mark.parametrize("name", [name for name in UNITS.values() if name.startswith("rudderpipe")])
def test_our_processes_may_do_little(units: Path, name: str) -> None:
    """A hole in one of their libraries must not open the host."""
    analyze(units, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", f"./{name}")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_accepts_the_manifests(name: str, version: str) -> None:
    """Strict: a field that this version does not know is a mistake."""
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_sidecar_needs_the_version_that_the_manifest_names() -> None:
    """The check sees a field that a version of Kubernetes does not have."""
    (manifest,) = [each for each in manifests("shop.yaml") if each["kind"] == "Deployment"]

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.27", strict=True)


def test_compose_accepts_its_file() -> None:
    """Also each volume, secret and service that another one names is there."""
    text = (RECIPES / "app" / "compose.yaml").read_text()

    compose = compose_spec.PyCompose.from_yaml(text)
    compose.validate()

    assert compose.service_names() == ["redis", "sender", "flusher", "app"]
    with pytest.raises(ValueError, match="rang"):
        compose_spec.PyCompose.from_yaml(text.replace("source: ring", "source: rang")).validate()


def test_the_image_has_no_known_fault() -> None:
    """Hadolint knows what goes wrong in images."""
    program = BIN / "hadolint"
    if not program.exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([program, RECIPES / "app" / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.stdout, done.returncode) == ("", 0)
