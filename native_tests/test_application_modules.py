"""Our processes need nothing of the application except the folders of rudderpipe and its dependencies."""

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
    DEPENDENCIES += ("async_timeout",)  # redis imports it on these versions
FOLDERS = ["app", "with:colon", "with\nline"]
if sys.version_info < (3, 13):  # later versions load no compiled module from such a folder
    FOLDERS.append(os.fsdecode(b"no-utf8-\xff"))
TAKEN = (
    *("queue", "types", "signal", "token", "logging", "random", "string", "struct", "socket", "ssl", "select"),
    *("json", "subprocess", "os", "runpy", "argparse", "encodings", "urllib3", "redis", "email/__init__"),
    *("http/__init__", "site", "sitecustomize", "usercustomize"),
)
"""Names of other modules that an application's own folder may hold too."""

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
    """Write modules with the names of others into an application's folder; each of them raises when it is imported."""
    for name in TAKEN:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('a module of the application, and not what was asked for')\n")


def install(folder: Path, *packages: str) -> None:
    """Copy packages as ``pip install --target`` does."""
    for name in packages:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(
            Path(spec.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )


def run_application(processes: Processes, *command: str, cwd: Path, **variables: str) -> None:
    """Run an application to its end, and check that its one event was delivered."""
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
    """Return a pipe with a queue, whose flusher starts a sender."""
    processes.explicit["redis"] = redis_server.url
    return processes


def test_our_processes_import_no_module_of_the_application(queued: Processes, directory: Path) -> None:
    """The application's folder comes first in its own path. Flusher, sender and Redis check must not import from it."""
    own_modules(directory / "app")

    code = f"{MAKE}sys.path.insert(0, {str(directory / 'app')!r})\n{TRACK}"
    run_application(queued, sys.executable, "-c", code, cwd=directory)


@pytest.mark.parametrize("folder", FOLDERS, ids=ascii)
def test_our_processes_start_from_the_applications_own_folder(queued: Processes, directory: Path, folder: str) -> None:
    """The folder is that of ``pip install --target``, and the application's modules are in it too."""
    app = directory / folder
    install(app, "rudderpipe", *DEPENDENCIES)
    (app / "main.py").write_text(f"{MAKE}import shop\n{TRACK}")
    # The application imports before these modules exist, and our processes start after that.
    (app / "shop.py").write_text(f"from pathlib import Path\nfor name in {TAKEN!r}:\n" + SHOP)

    run_application(queued, sys.executable, "-S", str(app / "main.py"), cwd=directory)


SHOP = """
    path = Path(__file__).parent / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise RuntimeError")
"""


@pytest.mark.parametrize("flags", [["-S"], ["-s", "-S"]], ids=" ".join)
def test_our_processes_start_when_each_package_has_its_own_folder(
    queued: Processes, directory: Path, flags: list[str]
) -> None:
    """Nix and Bazel lay packages out in this way."""
    for name in ("rudderpipe", *DEPENDENCIES):
        install(directory / f"for-{name}", name)
    path = os.pathsep.join(str(directory / f"for-{name}") for name in ("rudderpipe", *DEPENDENCIES))

    run_application(queued, sys.executable, *flags, "-c", MAKE + TRACK, cwd=directory, PYTHONPATH=path)


def test_our_processes_start_from_a_zipped_application(queued: Processes, directory: Path) -> None:
    """rudderpipe is in the archive. The dependencies are beside it, because they hold compiled modules."""
    install(directory / "app", "rudderpipe")
    install(directory / "dependencies", *DEPENDENCIES)
    (directory / "app/__main__.py").write_text(MAKE + TRACK)
    zipapp.create_archive(directory / "app", directory / "app.pyz")
    shutil.rmtree(directory / "app")

    run_application(queued, sys.executable, "-S", "app.pyz", cwd=directory, PYTHONPATH=str(directory / "dependencies"))


def test_our_processes_start_from_packages_of_the_user(queued: Processes, directory: Path) -> None:
    """``pip install --user`` puts packages into such a folder."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    install(directory / "lib" / version / "site-packages", "rudderpipe", *DEPENDENCIES)

    run_application(queued, str(base), "-c", MAKE + TRACK, cwd=directory, PYTHONUSERBASE=str(directory))


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
def test_our_processes_ignore_variables_of_the_applications_python(
    queued: Processes, directory: Path, variables: dict[str, str]
) -> None:
    """Such variables are meant for the application alone."""
    code = MAKE + TRACK
    found = importlib.util.find_spec("msgspec")
    assert found is not None
    site = str(Path(str(found.origin)).parent.parent)
    path = os.pathsep.join([str(REPOSITORY), site])

    own = {"PYTHONPATH": path, **variables}
    run_application(queued, sys.executable, "-W", "ignore", "-c", code, cwd=directory, **own)


def test_our_processes_do_not_run_sitecustomize(queued: Processes, directory: Path) -> None:
    """The application's variables name a folder with a ``sitecustomize``, which runs for the application alone."""
    (directory / "sitecustomize.py").write_text(
        f"import os\nwith open({str(directory / 'ran')!r}, 'a') as file:\n    file.write(f'{{os.getpid()}}\\n')\n"
    )

    run_application(queued, sys.executable, "-c", MAKE + TRACK, cwd=directory, PYTHONPATH=str(directory))

    assert (directory / "ran").read_text().count("\n") == 1


def test_our_processes_start_from_uwsgi_with_a_home(queued: Processes, directory: Path) -> None:
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
