"""The checks of the host: settings, versions, directories, shared memory, the service manager, the kernel."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from rudderpipe._version import VERSION
from rudderpipe.errors import RudderpipeError
from rudderpipe.observe import host_rings
from rudderpipe.observe.doctor import proc
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.process import runtime_dir
from rudderpipe.settings import CONFIG_VARIABLE, ENVIRONMENT_PREFIX, SECRET_FILES, Settings, mistakes, secret_file

NEEDED = {"msgspec": (0, 18, 6), "redis": (5, 0), "urllib3": (2, 0), "psutil": (5, 9)}
"""The oldest version of each dependency; ``tests/test_doctor.py`` compares it with ``pyproject.toml``."""
OF_NETWORKS = ("nfs", "cifs", "smb", "9p", "afs", "fuse.sshfs")
"""How the names of file systems begin whose locks do not hold between processes, or are slow."""
BUSY_PER_S = 1000
LOGIN_UID = 1000
"""The first uid of people, on whose last logout systemd removes their shared memory."""
FORBIDDEN = {"DynamicUser": "yes", "RemoveIPC": "yes", "PrivateUsers": "yes", "PrivatePIDs": "yes"}
"""What a unit of the pipe must not say, because its processes would lose the ring, or not see each other."""


@check(1, "settings", "host")
def settings(pipe: Examination) -> Result:
    """Check that write key and data plane are set, and that no variable is misspelt."""
    for name in ("write_key", "data_plane_url"):
        if not getattr(pipe.settings, name) and not (name == "write_key" and pipe.settings.write_key_file):
            return fail(f"{name} is missing", f"set RUDDERPIPE_{name.upper()}, as for the application")
    known = [ENVIRONMENT_PREFIX + name.upper() for name in Settings.__struct_fields__]
    unknown = mistakes.unknown_variables(pipe.environment, ENVIRONMENT_PREFIX, (*known, CONFIG_VARIABLE))
    found = [
        warn(f"{variable} is ignored, because no setting has this name", f"correct it{nearest}")
        for variable, nearest in unknown.items()
    ]
    return worst(found, f"pipe {pipe.settings.pipe_name}")


@check(2, "versions", "host")
def versions(_pipe: Examination) -> Result:
    """Check that Python and the dependencies are of versions that rudderpipe supports."""
    found, shown = [], []
    for name, oldest in NEEDED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(warn(f"{name} is not installed, or has no metadata", f"pip install -U {name}"))
            continue
        shown.append(f"{name} {version}")
        if tuple(map(int, re.findall(r"\d+", version)[:3])) < oldest:
            found.append(warn(f"{name} {version} is too old", f"pip install -U {name}"))
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        fix = "measure before you use it; the usual build is what rudderpipe is made for"
        found.append(warn("this Python is a free-threaded build, in which every event is copied", fix))
    python = ".".join(map(str, sys.version_info[:3]))
    return worst(found, f"rudderpipe {VERSION}, Python {python}, {', '.join(shown)}")


@check(3, "speed-ups", "host")
def speed_ups(pipe: Examination) -> Result:
    """Check that a busy pipe has the faster gzip (isal) and the faster Redis replies (hiredis)."""
    wanted = ["isal"] * pipe.settings.gzip + ["hiredis"] * (pipe.settings.redis is not None)
    lacking = [name for name in wanted if importlib.util.find_spec(name) is None]
    if not lacking:
        return ok("all that this pipe can use are installed")
    if pipe.rate_per_s <= BUSY_PER_S:
        return ok(f"without {' and '.join(lacking)}, which only a busy pipe needs")
    said = f"{pipe.rate_per_s:,.0f} events/s, without {' and '.join(lacking)}"
    return warn(said, f"pip install 'rudderpipe[{','.join(lacking)}]'")


@check(4, "runtime directory", "host")
def directory(pipe: Examination) -> Result:
    """Check that all processes use one runtime directory, that it is this user's alone, and on no network."""
    path = pipe.directory
    try:
        found = path.lstat()
    except FileNotFoundError:
        return _missing(path)
    except OSError as error:
        return fail(f"{path} cannot be read: {error.strerror}", "set runtime_dir to a directory of this user")
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        return fail(f"{path} is no directory of this user", "set runtime_dir to a directory of this user")
    if mode != 0o700:
        said = f"{path} has the mode {mode:04o}, so that other users can reach it, or its owner cannot write"
        return fail(said, f"chmod 700 {path}, or set runtime_dir to a directory for rudderpipe alone")
    kind = proc.kind_of_mount(path)
    if kind.startswith(OF_NETWORKS):
        said = f"{path} is on a network ({kind}), where locks do not hold"
        return fail(said, "set runtime_dir to a directory on this host")
    for pid in pipe.processes:
        for ring in pipe.rings:
            name = ring.location.lock_file.name
            others = [file for file in proc.open_files(pid) if file.name == name and file.parent != path.resolve()]
            if others:
                said = f"process {pid} has the lock file of this ring in {others[0].parent}, and not in {path}"
                return fail(said, "set the same runtime_dir for all processes of the pipe, and restart them")
    return ok(f"{path}{f' ({kind})' if kind else ''}")


def _missing(path: Path) -> Result:
    above = next((each for each in path.parents if each.exists()), path)
    if os.access(above, os.W_OK | os.X_OK):
        return ok(f"{path} does not exist yet; the first client makes it")
    return fail(f"{path} does not exist, and this user cannot make it", "set runtime_dir to a directory of this user")


@check(5, "shared memory", "host")
def shared_memory(pipe: Examination) -> Result:
    """Check that /dev/shm is in memory, can be written, and has room for the ring."""
    if sys.platform != "linux":
        raise Skipped("only Linux has /dev/shm")
    home, wanted = runtime_dir.HOME, pipe.settings.ring_bytes
    if not os.access(home, os.W_OK | os.X_OK):
        return fail(f"{home} cannot be written", f"mount a tmpfs at {home} that this user may write")
    room = os.statvfs(home)
    free = room.f_bavail * room.f_frsize
    taken = sum(state.used_bytes for state in pipe.states)
    lacks = max(0, wanted - taken) - free
    if lacks > 0:
        said = f"{home} has {free / 1e6:,.0f} MB free, and the ring may grow to {wanted / 1e6:,.0f} MB"
        fix = "give it more (docker: --shm-size, Kubernetes: an emptyDir of medium Memory), or lower ring_bytes"
        return fail(said, fix)
    kind = proc.kind_of_mount(home)
    if kind not in ("tmpfs", "ramfs", ""):
        return warn(f"{home} is not in memory but {kind}, so that appends may wait", f"mount a tmpfs at {home}")
    return ok(f"{free / 1e6:,.0f} MB free in {home}")


@check(14, "RemoveIPC", "host")
def remove_ipc(_pipe: Examination) -> Result:
    """Check that systemd does not remove this user's shared memory at the last logout."""
    if os.getuid() < LOGIN_UID:
        return ok("a system user, whose shared memory systemd leaves alone")
    lines = proc.output("systemd-analyze", "cat-config", "systemd/logind.conf").splitlines()
    if proc.value_of(lines, "RemoveIPC").lower() in ("no", "false", "off", "0"):
        return ok("RemoveIPC=no")
    name = host_rings.user_name(os.getuid())
    if (Path("/var/lib/systemd/linger") / name).exists():
        return ok(f"{name} lingers")
    said = f"systemd removes the ring when the last session of {name} ends"
    return warn(said, f"RemoveIPC=no in logind.conf, loginctl enable-linger {name}, or a system user")


@check(15, "units", "host")
def units(pipe: Examination) -> Result:
    """Check that the systemd units of application and flusher keep the ring and let processes see each other."""
    found, seen = [], []
    for pid, what in pipe.processes.items():
        name = proc.unit(pid)
        if not name or name in seen or name.startswith("user@"):
            continue
        seen.append(name)
        lines = proc.output("systemctl", "show", *(f"-p{each}" for each in (*FORBIDDEN, _HIDES)), name).splitlines()
        wrong = [f"{each}={value}" for each, value in FORBIDDEN.items() if proc.value_of(lines, each) == value]
        if str(runtime_dir.HOME) in proc.value_of(lines, _HIDES):
            wrong.append(f"{_HIDES}={runtime_dir.HOME}")
        if wrong:
            fix = f"remove it: systemctl edit {name}; docs/deployment.md has units that work"
            found.append(fail(f"the unit {name} of the {what} says {', '.join(wrong)}", fix))
    if not seen:
        raise Skipped("no process of the pipe is in a systemd service")
    return worst(found, ", ".join(seen))


_HIDES = "TemporaryFileSystem"


@check(32, "secret files", "host")
def secret_files(pipe: Examination) -> Result:
    """Check that the files of write key and password can be read, by this user alone."""
    found, shown = [], []
    for setting in SECRET_FILES:
        path = getattr(pipe.settings, setting)
        if path is None:
            continue
        shown.append(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # one open for the state and the bytes
                state, data = os.fstat(file.fileno()), file.read(secret_file.LIMIT_BYTES + 1)
            secret_file.text_of(data)
        except OSError as error:
            found.append(fail(f"{setting} {path} cannot be read: {error.strerror}", f"mount or make {path}"))
            continue
        except ValueError as error:
            found.append(fail(f"{setting} {path} {error}", "write the secret, and nothing else, into it"))
            continue
        if secret_file.is_open_to_all(state):
            fix = f"chmod 400 {path} (Kubernetes: defaultMode: 0400)"
            found.append(warn(f"every user can read {path} of {setting}", fix))
    return worst(found, ", ".join(shown) or "none, the secrets are in the settings")


@check(27, "kernel", "host")
def kernel(pipe: Examination) -> Result:
    """Check the kernel's settings for a Redis on this host, and the memory limit of this container for the ring."""
    found = list(_of_local_redis(pipe)) if _is_local(pipe) else []
    limit = next((text for name in _LIMITS if (text := proc.text(proc.SYS / "fs" / "cgroup" / name))), "")
    if limit.isdigit() and int(limit) < 4 * pipe.settings.ring_bytes:
        said = f"this container may use {int(limit) / 1e6:,.0f} MB, to which the ring's {_mb(pipe)} MB count"
        found.append(warn(said, "raise the memory limit of the container, or lower ring_bytes"))
    return worst(found, "nothing that is known to hurt")


_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def _mb(pipe: Examination) -> str:
    return f"{pipe.settings.ring_bytes / 1e6:,.0f}"


def _is_local(pipe: Examination) -> bool:
    if pipe.settings.redis is None:
        return False
    address = pipe.settings.redis_address
    return bool(address.unix_socket_path) or address.host in ("localhost", "127.0.0.1", "::1")


def _of_local_redis(pipe: Examination) -> list[Result]:
    found = []
    if "[always]" in proc.text(proc.SYS / "kernel" / "mm" / "transparent_hugepage" / "enabled"):
        fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        found.append(warn("transparent huge pages slow down the forks of Redis", fix))
    if proc.text(proc.PROC / "sys" / "vm" / "overcommit_memory") == "0":
        said = "vm.overcommit_memory is 0, so that Redis may be unable to save while it is large"
        found.append(warn(said, "sysctl vm.overcommit_memory=1"))
    try:
        clients, pid = int(str(pipe.info.get("maxclients", 0))), int(str(pipe.info.get("process_id", 0)))
    except (Skipped, RudderpipeError, ValueError):
        return found
    line = re.search(r"Max open files +(\d+)", proc.text(proc.PROC / str(pid) / "limits"))
    if line is not None and int(line[1]) < clients:
        said = f"Redis may open {line[1]} files, and has maxclients {clients}"
        found.append(warn(said, "raise ulimit -n (LimitNOFILE) of Redis"))
    return found
