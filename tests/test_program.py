"""Which program can run our processes, where Python is an application or a part of one."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rudderpipe.errors import ProcessNotStarted
from rudderpipe.process import spawn


@pytest.mark.parametrize(
    "name",
    [
        *("python", "python3", "python3.11", "python3.13t", "python3.11-dbg", "Python", "pythonw3.10"),
        *("pypy3.10", "pypy3-c", "python3-intel64", "graalpy"),
    ],
)
def test_a_python_runs_our_processes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever it is and wherever it stands."""
    monkeypatch.setattr(sys, "executable", f"/somewhere/{name}")

    assert spawn.interpreter() == f"/somewhere/{name}"


@pytest.mark.parametrize("name", ["python-ingest", "pythonista", "uwsgi", "httpd", "python3.11-app", "", None])
def test_a_program_that_embeds_python_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: Any) -> None:
    """The Python of its prefix does, of the same version if there are several; none at all is an error."""
    monkeypatch.setattr(sys, "executable", name and f"/somewhere/{name}")
    for prefix in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, prefix, str(tmp_path))
    with pytest.raises(ProcessNotStarted, match="there is no Python to start it with"):
        spawn.interpreter()

    (tmp_path / "bin").mkdir()
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for there in ("python3", version):
        (tmp_path / "bin" / there).touch()
        assert spawn.interpreter() == str(tmp_path / "bin" / there)


@pytest.mark.parametrize("sign", ["frozen", "oxidized", "compiled"])
def test_a_frozen_application_starts_nothing_before_it_allows_that(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """PyInstaller, cx_Freeze and py2app, PyOxidizer, Nuitka: the error says what can be done."""
    if sign == "compiled":
        main = ModuleType("__main__")
        main.__compiled__ = SimpleNamespace(standalone=True)  # type: ignore[attr-defined]  # as Nuitka puts it there
        monkeypatch.setitem(sys.modules, "__main__", main)
    else:
        monkeypatch.setattr(sys, sign, "macosx_app", raising=False)

    assert spawn.is_frozen()
    with pytest.raises(ProcessNotStarted, match="freeze_support"):
        spawn.start("rudderpipe.flusher", b"{}")


def test_modules_that_nuitka_compiled_for_a_python_are_no_frozen_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sys.executable`` is a Python there, which finds what is installed."""
    main = ModuleType("__main__")
    main.__compiled__ = SimpleNamespace(standalone=False)  # type: ignore[attr-defined]  # as Nuitka puts it there
    monkeypatch.setitem(sys.modules, "__main__", main)

    assert not spawn.is_frozen()


def test_folders_are_few_and_hold_packages_not_the_applications_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module of the application, or a folder of files, is not taken for the package of the same name."""
    (tmp_path / "redis.py").touch()
    (tmp_path / "urllib3").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    found = spawn.folders()

    assert str(tmp_path) not in found
    assert found[0] == str(Path(spawn.__file__).parents[2])
    assert len(found) == len(set(found))
