"""Which program runs the flusher, also where Python is an application or a part of one."""

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
def test_sys_executable_runs_the_flusher_if_it_is_a_python(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The kind of Python and its folder do not matter."""
    monkeypatch.setattr(sys, "executable", f"/somewhere/{name}")

    assert spawn.interpreter() == f"/somewhere/{name}"


@pytest.mark.parametrize("name", ["python-ingest", "pythonista", "uwsgi", "httpd", "python3.11-app", "", None])
def test_a_program_that_embeds_python_does_not_run_the_flusher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: Any
) -> None:
    """The Python in its prefix does, preferably of the same version. Without any Python there, an error is raised."""
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
def test_a_frozen_application_starts_nothing_without_freeze_support(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """PyInstaller, cx_Freeze, py2app, PyOxidizer and Nuitka freeze applications. The error says what to call."""
    if sign == "compiled":
        main = ModuleType("__main__")
        main.__compiled__ = SimpleNamespace(standalone=True)  # type: ignore[attr-defined]  # as Nuitka puts it there
        monkeypatch.setitem(sys.modules, "__main__", main)
    else:
        monkeypatch.setattr(sys, sign, "macosx_app", raising=False)

    assert spawn.is_frozen()
    with pytest.raises(ProcessNotStarted, match="freeze_support"):
        spawn.start("rudderpipe.flusher", b"{}")


def test_modules_compiled_by_nuitka_are_no_frozen_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``standalone``, ``sys.executable`` is a Python that finds the installed packages."""
    main = ModuleType("__main__")
    main.__compiled__ = SimpleNamespace(standalone=False)  # type: ignore[attr-defined]  # as Nuitka puts it there
    monkeypatch.setitem(sys.modules, "__main__", main)

    assert not spawn.is_frozen()


def test_folders_hold_packages_and_no_modules_of_the_application(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module of the application, or a plain folder, may have the name of a package that the flusher needs."""
    (tmp_path / "redis.py").touch()
    (tmp_path / "urllib3").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    found = spawn.folders()

    assert str(tmp_path) not in found
    assert found[0] == str(Path(spawn.__file__).parents[2])
    assert len(found) == len(set(found))
