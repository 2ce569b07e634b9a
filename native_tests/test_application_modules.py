"""Our processes need of the application only where rudderpipe and its dependencies live."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from native_tests.hosts import responds, script
from native_tests.processes import Processes, wait_until
from rudderpipe.testing.redis_server import RedisServer

REPOSITORY = Path(__file__).parent.parent
DEPENDENCIES: tuple[str, ...] = ("msgspec", "redis", "urllib3", "psutil")
if sys.version_info < (3, 11, 3):
    DEPENDENCIES += ("async_timeout",)  # which redis imports there
FOLDERS = ["app", "with:colon", "with\nline"]
if sys.version_info < (3, 13):  # which loads no compiled module from such a folder
    FOLDERS.append(os.fsdecode(b"no-utf8-\xff"))
TAKEN = (
    *("queue", "types", "signal", "token", "logging", "random", "string", "struct", "socket", "ssl", "select"),
    *("json", "subprocess", "os", "runpy", "argparse", "encodings", "urllib3", "redis", "email/__init__"),
    *("http/__init__", "site", "sitecustomize", "usercustomize"),
)
"""Names of modules that an application's own folder may hold."""

MAKE = "import os, sys, rudderpipe\nclient = rudderpipe.Client()\n"
TRACK = """
if os.environ.get("RUDDERPIPE_REDIS"):
    client.create_persistence_queue()
os.chdir("/")
assert client.track("u", "e")
result = client.flush(30, until="delivered")
assert result.complete and not result.failed, result
"""


def own_modules(folder: Path) -> None:
    """Write modules with the names of others into an application's folder; to import one of them is an error."""
    for name in TAKEN:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('a module of the application, and not what was asked for')\n")


def install(folder: Path, *packages: str) -> None:
    """Copy packages, as ``pip install --target`` does."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(
            Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )


def ran(processes: Processes, *command: str, cwd: Path, **variables: str) -> None:
    """Run an application to its end, which finds its one event delivered."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**processes.environment, **variables},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (done.stderr.decode(), processes.log())
    assert processes.plane.stats()["unique_message_ids"] == 1


@pytest.fixture(name="queued")
def _queued(processes: Processes, redis_server: RedisServer) -> Processes:
    """A pipe with a queue, whose flusher starts a sender."""
    processes.explicit["redis"] = redis_server.url
    return processes


def test_no_module_of_the_application_takes_the_place_of_another_one(queued: Processes, directory: Path) -> None:
    """Flusher, sender and the look whether Redis is there find theirs, though the application's come first for it."""
    own_modules(directory / "app")

    code = f"{MAKE}sys.path.insert(0, {str(directory / 'app')!r})\n{TRACK}"
    ran(queued, sys.executable, "-c", code, cwd=directory)


@pytest.mark.parametrize("folder", FOLDERS, ids=ascii)
def test_everything_is_installed_in_the_applications_own_folder(
    queued: Processes, directory: Path, folder: str
) -> None:
    """As ``pip install --target`` does it; beside it are the application's modules."""
    app = directory / folder
    install(app, "rudderpipe", *DEPENDENCIES)
    (app / "main.py").write_text(f"{MAKE}import shop\n{TRACK}")
    # The application's modules are there when our processes start, and were not when it imported its own.
    (app / "shop.py").write_text(f"from pathlib import Path\nfor name in {TAKEN!r}:\n" + SHOP)

    ran(queued, sys.executable, "-S", str(app / "main.py"), cwd=directory)


SHOP = """
    path = Path(__file__).parent / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError")
"""


@pytest.mark.parametrize("flags", [["-S"], ["-s", "-S"]], ids=" ".join)
def test_every_package_has_a_folder_of_its_own(queued: Processes, directory: Path, flags: list[str]) -> None:
    """As Nix and Bazel lay them out."""
    for name in ("rudderpipe", *DEPENDENCIES):
        install(directory / f"for-{name}", name)
    path = os.pathsep.join(str(directory / f"for-{name}") for name in ("rudderpipe", *DEPENDENCIES))

    ran(queued, sys.executable, *flags, "-c", MAKE + TRACK, cwd=directory, PYTHONPATH=path)


def test_a_zipped_application(queued: Processes, directory: Path) -> None:
    """Rudderpipe is in the archive, beside it are the dependencies, which hold compiled modules."""
    install(directory / "app", "rudderpipe")
    install(directory / "dependencies", *DEPENDENCIES)
    (directory / "app/__main__.py").write_text(MAKE + TRACK)
    zipapp.create_archive(directory / "app", directory / "app.pyz")
    shutil.rmtree(directory / "app")

    ran(queued, sys.executable, "-S", "app.pyz", cwd=directory, PYTHONPATH=str(directory / "dependencies"))


def test_packages_of_the_user(queued: Processes, directory: Path) -> None:
    """As ``pip install --user`` does it."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    install(directory / "lib" / version / "site-packages", "rudderpipe", *DEPENDENCIES)

    ran(queued, str(base), "-c", MAKE + TRACK, cwd=directory, PYTHONUSERBASE=str(directory))


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHOME": sys.base_prefix},
        {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"},
        {"PYTHONINSPECT": "1"},
        {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1", "PYTHONVERBOSE": "0"},
    ],
    ids=" ".join,
)
def test_variables_for_the_applications_python(queued: Processes, directory: Path, variables: dict[str, str]) -> None:
    """What they ask for is for the application alone."""
    code = MAKE + TRACK
    found = importlib.util.find_spec("msgspec")
    assert found is not None
    site = str(Path(str(found.origin)).parent.parent)
    path = os.pathsep.join([str(REPOSITORY), site])

    ran(queued, sys.executable, "-W", "ignore", "-c", code, cwd=directory, **{"PYTHONPATH": path, **variables})


def test_what_site_runs_for_the_application_does_not_run_in_our_processes(queued: Processes, directory: Path) -> None:
    """A ``sitecustomize`` that the application's variables name, and one for each interactive start."""
    (directory / "sitecustomize.py").write_text(
        f"import os\nwith open({str(directory / 'ran')!r}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n"
    )

    ran(queued, sys.executable, "-c", MAKE + TRACK, cwd=directory, PYTHONPATH=str(directory))

    assert (directory / "ran").read_text().count("\n") == 1


def test_uwsgi_with_a_home(queued: Processes, directory: Path) -> None:
    """Python is embedded in the server, whose ``home`` is a virtual environment."""
    own_modules(directory / "app")
    (directory / "wsgi.py").write_text(
        f"{MAKE}sys.path.insert(0, {str(directory / 'app')!r})\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'%d' % client.track('u', 'e')]\n"
    )
    uwsgi = script("uwsgi")
    listening = directory / "uwsgi.sock"
    queued.start_program(
        *(uwsgi, "--binary-path", uwsgi, "--home", sys.prefix, "--http-socket", str(listening), "--module", "wsgi"),
        *("--disable-logging", "--logto", str(directory / "uwsgi.log")),
        cwd=directory,
    )

    wait_until(lambda: responds(listening))
    queued.delivered(1)
