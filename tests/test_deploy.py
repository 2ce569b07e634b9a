"""The recipes of docs/deploy: each setting, option, path, port and time in them exists and fits the others."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rudderpipe import settings as settings_module
from rudderpipe.flusher.__main__ import parser as flusher
from rudderpipe.observe.doctor.host import FORBIDDEN
from rudderpipe.observe.metrics.table import METRICS
from rudderpipe.queue.keys import Keys
from rudderpipe.sender.__main__ import parser as sender
from rudderpipe.service.http import PATHS
from rudderpipe.service.signals import EXIT_USAGE, GRACE_S
from rudderpipe.settings import Settings, mistakes
from tests.test_docs import PACKAGE, ROOT, options, parsers

yaml: Any = pytest.importorskip("yaml", reason="needs pyyaml, of the extra test")

DEPLOY = ROOT / "docs" / "deploy"
FILES = sorted(
    path for path in DEPLOY.rglob("*") if path.is_file() and path.parent.name not in ("deploy", "prometheus")
)
PIPE = "shop"
OURS = re.compile(r"-m rudderpipe\.(flusher|sender)((?: \S+)*)")
SERVED = frozenset(re.findall(r"/[\w.]+", PATHS))


def text_of(name: str) -> str:
    """Return a file of the recipes."""
    return (DEPLOY / name).read_text()


def uncommented(text: str) -> str:
    """Return a file with the comment signs before its settings taken away."""
    return re.sub(r"^(\s*)[#;] (?=[A-Za-z_]+ ?[=:])", r"\1", text, flags=re.MULTILINE)


def variables(text: str) -> dict[str, str]:
    """Return the variables of an environment file."""
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


def unit(name: str) -> list[tuple[str, str]]:
    """Return the lines of a unit of systemd."""
    return re.findall(r"^(\w+)=(.*)$", text_of(f"systemd/{name}"), re.MULTILINE)


def value(lines: list[tuple[str, str]], name: str) -> str:
    """Return the one value that a unit has under a name."""
    (found,) = [each for key, each in lines if key == name]
    return found


def supervised() -> dict[str, configparser.SectionProxy]:
    """Return the programs of supervisor."""
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=(";",))
    parser.read_string(text_of("supervisor/shop.conf"))
    return {name.partition(":")[2]: parser[name] for name in parser.sections()}


def manifests(kind: str) -> list[dict[str, Any]]:
    """Return the manifests for Kubernetes of one kind."""
    found = [
        each for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
    ]
    return [each for each in found if each["kind"] == kind]


def pods() -> dict[str, dict[str, Any]]:
    """Return the pods of Kubernetes by the name of their Deployment."""
    return {each["metadata"]["name"]: each["spec"]["template"] for each in manifests("Deployment")}


def containers() -> dict[str, dict[str, Any]]:
    """Return the containers of Kubernetes by name."""
    specs = [pod["spec"] for pod in pods().values()]
    return {each["name"]: each for spec in specs for each in (*spec.get("initContainers", ()), *spec["containers"])}


def services() -> dict[str, dict[str, Any]]:
    """Return the services of compose."""
    return dict(yaml.safe_load(text_of("app/compose.yaml"))["services"])


def environments() -> dict[str, dict[str, str]]:
    """Return the variables that the processes of each recipe have."""
    image = dict(re.findall(r"^ENV (\w+)=(\S+)$", text_of("app/Dockerfile"), re.MULTILINE))
    (config,) = manifests("ConfigMap")
    return {
        "systemd": variables(text_of("systemd/shop.env")) | {"RUDDERPIPE_WRITE_KEY": "in a credential"},
        "systemd, with every line": variables(uncommented(text_of("systemd/shop.env"))),
        "kubernetes": image | config["data"],
        "compose": image | services()["app"]["environment"],
    }


def settings_of_recipes(tmp_path: Path) -> dict[str, Settings]:
    """Return the settings that each recipe makes."""
    found = {name: settings_module.load(environment=each) for name, each in environments().items()}
    for name, text in (("toml", text_of("supervisor/shop.toml")), ("toml, with every line", "")):
        path = tmp_path / "shop.toml"
        path.write_text(text or uncommented(text_of("supervisor/shop.toml")))
        found[name] = settings_module.load(environment={"RUDDERPIPE_CONFIG": str(path)})
    return found


def commands() -> list[tuple[str, str]]:
    """Return each command line of the recipes that starts a process, with its file."""
    found = [
        (path.name, line)
        for path in (DEPLOY / "systemd").glob("*.service")
        for line in re.findall(r"^ExecStart=(.*)$", path.read_text(), re.MULTILINE)
    ]
    found += [("shop.conf", each["command"]) for each in supervised().values()]
    found += [("Procfile", line.partition(": ")[2]) for line in text_of("app/Procfile").splitlines()]
    found += [("compose.yaml", shlex.join(each["command"])) for each in services().values() if "command" in each]
    found += [("kubernetes", shlex.join(each["command"])) for each in containers().values()]
    found += [
        ("attached.ini", each)
        for each in re.findall(r"^attach-daemon2 = cmd=([^,\n]+)", text_of("uwsgi/attached.ini"), re.MULTILINE)
    ]
    found += [
        ("Dockerfile", shlex.join(json.loads(re.findall(r"^CMD (.*)$", text_of("app/Dockerfile"), re.MULTILINE)[0])))
    ]
    return found


def admin_port(command: str) -> int:
    """Return the port of the admin address of a flusher or sender."""
    return int(shlex.split(command)[-1].rpartition(":")[2])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(DEPLOY).as_posix())
def test_every_variable_is_a_setting(path: Path) -> None:
    """Also in a comment, from which an operator takes the sign away."""
    known = {f"RUDDERPIPE_{name.upper()}" for name in Settings.__struct_fields__} | {"RUDDERPIPE_CONFIG"}

    assert set(re.findall(r"\bRUDDERPIPE_[A-Z_]*[A-Z]\b", path.read_text())) <= known


def test_the_settings_of_each_recipe_load(tmp_path: Path) -> None:
    """Flusher and sender are an operator's, and secrets are in files."""
    for name, settings in settings_of_recipes(tmp_path).items():
        assert settings.pipe == PIPE, name
        assert settings.autostart is False, name
        assert settings.redis_place, name
        assert settings.data_plane_url == "https://dataplane.example.com", name
        assert settings.spool_dir, name
        assert settings.spool_dir.startswith("/var/lib/rudderpipe"), name
        assert settings.lanes == 1 or settings.flush_at == 20 * settings.lanes, name
        assert settings.write_key_file or name.startswith("systemd"), name
    for environment in environments().values():
        assert not mistakes.unknown_variables(
            environment, "RUDDERPIPE_", [f"RUDDERPIPE_{name.upper()}" for name in Settings.__struct_fields__]
        )


def test_no_recipe_holds_a_secret() -> None:
    """What is copied into a repository, or read by every user, holds none."""
    for path in FILES:
        assert not re.search(r"write_key\s*[=:]\s*[\"']?\w", path.read_text(), re.IGNORECASE) or path.suffix in (
            ".yaml",
            ".service",
        ), path
        assert "RUDDERPIPE_WRITE_KEY=" not in path.read_text(), path
        assert "RUDDERPIPE_WRITE_KEY:" not in path.read_text(), path


def test_every_command_of_ours_has_options_that_exist() -> None:
    """Each recipe starts a flusher and a sender, except where the application starts the flusher."""
    found: dict[str, set[str]] = {}
    for name, command in commands():
        ours = OURS.search(command)
        if ours is None:
            continue
        found.setdefault(name, set()).add(ours[1])
        parser = flusher() if ours[1] == "flusher" else sender()
        assert set(re.findall(r"--[a-z-]+", ours[2])) <= options(parser), command

    assert found.pop("rudderpipe-flusher@.service") | found.pop("rudderpipe-sender@.service") == {"flusher", "sender"}
    assert found.pop("Procfile") == {"sender"}
    assert "RUDDERPIPE_AUTOSTART=flusher" in text_of("app/Procfile")
    assert set(found) == {"shop.conf", "compose.yaml", "kubernetes", "attached.ini"}
    assert set(map(frozenset, found.values())) == {frozenset(("flusher", "sender"))}


def test_every_variable_of_a_unit_is_in_its_file() -> None:
    """Systemd replaces one that is not there by nothing. The unit of the page has options that exist."""
    known = set(variables(text_of("systemd/shop.env"))) | {"CREDENTIALS_DIRECTORY", "MAINPID"}
    for path in (DEPLOY / "systemd").glob("*.service"):
        lines = "\n".join(re.findall(r"^Exec\w+=(.*)$", path.read_text(), re.MULTILINE))
        assert set(re.findall(r"\$\{?(\w+)", lines)) <= known, path
    _, _, given = value(unit("rudderpipe-web@.service"), "ExecStart").partition("rudderpipe web ")

    assert set(re.findall(r"--[a-z-]+", given)) <= options(parsers()["rudderpipe web"])
    assert "web_token:/etc/rudderpipe/%i.web" in value(unit("rudderpipe-web@.service"), "LoadCredential")


def gunicorn(name: str) -> float:
    """Return a number of the gunicorn's configuration."""
    (found,) = re.findall(rf"^{name} = ([\d_]+)$", text_of("app/gunicorn.conf.py"), re.MULTILINE)
    return float(found)


def test_every_stop_has_its_time() -> None:
    """A process that is killed before its drain leaves events in the ring, which may end with the container."""
    settings = Settings(write_key="k", data_plane_url="https://h")
    ours = settings.shutdown_timeout_s + GRACE_S
    application = gunicorn("graceful_timeout") + settings.shutdown_timeout_s
    stops = {
        "rudderpipe-flusher@.service": ours,
        "rudderpipe-sender@.service": ours,
        "shop.service": application,
    }
    for name, needed in stops.items():
        assert float(value(unit(name), "TimeoutStopSec")) > needed, name
    for name, program in supervised().items():
        assert float(program["stopwaitsecs"]) > (application if name == "shop" else ours), name
    for name in ("flusher", "sender", "app"):
        grace_s = float(services()[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > (application if name == "app" else ours), name
    pause_s = float(containers()["shop"]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pods()["shop"]["spec"]["terminationGracePeriodSeconds"] > pause_s + application + ours
    assert pods()["rudderpipe-sender"]["spec"]["terminationGracePeriodSeconds"] > ours


def test_the_application_ends_before_the_flusher() -> None:
    """What its last requests wrote is drained."""
    assert "rudderpipe-flusher@shop.service" in " ".join(each for key, each in unit("shop.service") if key == "After")
    assert "rudderpipe-flusher@shop.service" in " ".join(each for key, each in unit("shop.service") if key == "Wants")
    programs = supervised()
    assert int(programs["shop"]["priority"]) > int(programs["shop-flusher"]["priority"])
    assert int(programs["shop-flusher"]["priority"]) > int(programs["shop-sender"]["priority"])
    assert "flusher" in services()["app"]["depends_on"]
    assert "sender" in services()["flusher"]["depends_on"]
    (sidecar,) = pods()["shop"]["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("flusher", "Always")


def test_wrong_settings_are_no_reason_for_a_new_start() -> None:
    """Any other end is."""
    for name in ("rudderpipe-flusher@.service", "rudderpipe-sender@.service"):
        assert value(unit(name), "RestartPreventExitStatus") == str(EXIT_USAGE)
        assert value(unit(name), "Restart") == "always"
    for name in ("shop-flusher", "shop-sender"):
        program = supervised()[name]
        assert (program["autorestart"], program["exitcodes"]) == ("unexpected", str(EXIT_USAGE))


def test_every_probe_asks_a_port_and_a_path_that_are_served() -> None:
    """The port of redis_exporter is left to it."""
    ports = set()
    for name, container in containers().items():
        named = {each["name"]: each["containerPort"] for each in container["ports"]}
        probes = [each["httpGet"] for key, each in container.items() if key.endswith("Probe")]
        assert probes, name
        for probe in probes:
            assert probe["port"] in named, name
            assert probe["path"] in SERVED, name
        if name != "shop":
            assert list(named.values()) == [admin_port(shlex.join(container["command"]))]
            ports.add((name, *named.values()))
    for name in ("flusher", "sender"):
        service = services()[name]
        port = admin_port(shlex.join(service["command"]))
        ports.add((name, port))
        (asked,) = re.findall(r"http://127.0.0.1:(\d+)(/\w+)", service["healthcheck"]["test"][-1])
        assert (int(asked[0]), asked[1] in SERVED) == (port, True)
        ports.add((name, admin_port(supervised()[f"shop-{name}"]["command"])))
        ports.add((name, admin_port(variables(text_of("systemd/shop.env"))[f"{name.upper()}_ADMIN"])))
    scraped = {name: pod["metadata"]["annotations"]["prometheus.io/port"] for name, pod in pods().items()}
    (service,) = manifests("Service")

    assert ports == {("flusher", 9120), ("sender", 9122)}
    assert scraped == {"shop": "9120", "rudderpipe-sender": "9122"}
    assert service["spec"]["ports"][0]["targetPort"] == containers()["shop"]["ports"][0]["name"]


def test_every_path_of_a_container_is_mounted() -> None:
    """A secret, a ring or a dead letter in the image itself would be none, or end with the container."""
    settings = settings_module.load(environment=environments()["kubernetes"])
    for pod in pods().values():
        volumes = {each["name"] for each in pod["spec"]["volumes"]}
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            assert set(mounts.values()) <= volumes
            assert str(Path(str(settings.redis_password_file)).parent) in mounts
            if container["name"] != "sender":
                assert mounts["/dev/shm"] == "ring"
                assert str(Path(str(settings.write_key_file)).parent) in mounts
            if container["name"] == "flusher":
                assert str(settings.spool_dir) in mounts
        assert volumes == {each["name"] for name in pod_containers(pod) for each in name["volumeMounts"]}
    app, flusher = services()["app"], services()["flusher"]
    assert app["volumes"][0] == flusher["volumes"][0]
    assert app["volumes"][0]["target"] == "/dev/shm"
    compose = settings_module.load(environment=environments()["compose"])
    for service in (app, flusher):
        assert [f"/run/secrets/{name}" for name in service["secrets"]] == [compose.write_key_file]
    assert f"dead-letters:{compose.spool_dir}" in flusher["volumes"]


def pod_containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all containers of a pod."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def mebibytes(text: str) -> int:
    """Return a size of Kubernetes or of tmpfs in MiB."""
    found = re.search(r"(\d+)M(?:i|b)?", text, re.IGNORECASE)
    assert found, text
    return int(found[1])


def test_the_ring_has_room() -> None:
    """In the shared memory, and in the memory limit of the container that fills it."""
    ring = Settings(write_key="k", data_plane_url="https://h").ring_bytes >> 20
    (volume,) = [each for each in pods()["shop"]["spec"]["volumes"] if each["name"] == "ring"]
    tmpfs = yaml.safe_load(text_of("app/compose.yaml"))["volumes"]["ring"]["driver_opts"]

    assert volume["emptyDir"]["medium"] == "Memory"
    assert mebibytes(volume["emptyDir"]["sizeLimit"]) > ring
    assert tmpfs["type"] == "tmpfs"
    assert mebibytes(tmpfs["o"]) > ring
    for name in ("shop", "flusher"):
        resources = containers()[name]["resources"]
        assert mebibytes(resources["limits"]["memory"]) >= mebibytes(resources["requests"]["memory"]) + ring, name


def test_who_shares_a_ring_has_one_user() -> None:
    """The ring can be read by its user alone."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", text_of("app/Dockerfile"), re.MULTILINE)
    for pod in pods().values():
        security = pod["spec"]["securityContext"]
        assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
        assert security["fsGroup"] == security["runAsGroup"]  # so that its files of secrets can be read
    assert "user" not in services()["app"]
    assert "user" not in services()["flusher"]
    assert value(unit("rudderpipe-flusher@.service"), "User") == "%i"
    assert value(unit("shop.service"), "User") == PIPE
    assert {each["user"] for each in supervised().values()} == {PIPE}


def test_the_pods_are_allowed_in_a_restricted_namespace() -> None:
    """The strictest of Kubernetes's Pod Security Standards."""
    for pod in pods().values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod_containers(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True


def hardening(name: str) -> str:
    """Return what a unit says about what its process may do."""
    return text_of(f"systemd/{name}").partition("# What the process may do.")[2]


def test_our_units_have_the_same_restrictions() -> None:
    """None of them hides the ring, another process of the user, or the id of the boot."""
    ours = [f"rudderpipe-{name}@.service" for name in ("flusher", "sender", "web")]
    assert hardening(ours[0]) == hardening(ours[1]) == hardening(ours[2]) != ""
    for name in (*ours, "shop.service"):
        lines = unit(name)
        assert [each for each in FORBIDDEN.items() if each in lines] == []
        assert {"TemporaryFileSystem", "ProcSubset", "PrivateIPC"} & {key for key, _ in lines} == set()


def test_the_watchdog_is_slower_than_a_stall() -> None:
    """The service manager and the program agree about what is notified."""
    for name in ("rudderpipe-flusher@.service", "rudderpipe-sender@.service"):
        assert (value(unit(name), "Type"), value(unit(name), "NotifyAccess")) == ("notify", "main")
        assert int(value(unit(name), "WatchdogSec")) > 0


def test_redis_keeps_the_queue() -> None:
    """It writes an append-only file, evicts nothing, and has more memory than the queue may take."""
    command = services()["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))

    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"
    limit = settings_module.load(environment=environments()["compose"]).max_queue_bytes
    assert limit is not None
    assert limit <= mebibytes(given["--maxmemory"]) << 19
    assert services()["redis"]["volumes"] == ["redis:/data"]


def test_the_image_installs_extras_that_exist() -> None:
    """A misspelt extra is ignored by pip, with a warning."""
    (extras,) = re.findall(r"^rudderpipe\[([\w,]+)\]$", text_of("app/requirements.txt"), re.MULTILINE)
    known = re.findall(r"^(\w+) = \[", (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE)

    assert set(extras.split(",")) <= set(known)


def test_the_autoscaler_asks_for_a_metric_that_exists() -> None:
    """It is a metric of the queue, with its name as the label, and the Deployment exists too."""
    (scaled,) = manifests("ScaledObject")
    asked = re.fullmatch(r'max\((\w+)\{(\w+)="(.*)"\}\)', scaled["spec"]["triggers"][0]["metadata"]["query"])
    assert asked
    metric, label, queue = asked.groups()
    settings = settings_module.load(environment=environments()["kubernetes"])

    assert (label, f"{queue}:") == ("queue", Keys(settings.prefix, settings.queue_name).base)
    assert [each.source for each in METRICS if each.name == metric] == [label]
    assert scaled["spec"]["scaleTargetRef"]["name"] in pods()
    (budget,) = manifests("PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"] == pods()["rudderpipe-sender"]["metadata"]["labels"]
    assert budget["spec"]["minAvailable"] < next(
        each["spec"]["replicas"] for each in manifests("Deployment") if each["metadata"]["name"] == "rudderpipe-sender"
    )


PAGE = ROOT / "docs" / "deployment.md"


def test_the_page_shows_every_file() -> None:
    """By a link, so that nothing stands twice; what it includes is the file itself."""
    text = PAGE.read_text()
    included = re.findall(r"^\[(deploy/\S+)\]\(\1\):\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    assert {path.relative_to(PAGE.parent).as_posix() for path in FILES} <= set(re.findall(r"\((deploy/[^)#]+)\)", text))
    assert included
    for name, block in included:
        assert block == (PAGE.parent / name).read_text(), name
