"""The tests that rudder-sdk-python and segment-analytics-python install, with the drop-ins in place of the originals.

A test passes, or stands in ``NEEDS`` with what it takes from within the original. Tests of the originals' repositories
(``test_package_build``, ``test_release_validation``) are no ``TestCase`` and do not run outside of those.
"""

from __future__ import annotations

import ast
import json
import site
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_tests.processes import Processes, free_port
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour

SUITES = {
    "rudderstack": "test_client test_consumer test_module test_public_api_contract test_request test_request_options"
    " test_utils",
    "segment": "test_client test_consumer test_init test_module test_oauth test_request test_utils",
}
"""The modules of each suite, to which the suite's package itself is added."""
PROGRAM = """
import gc, importlib.abc, importlib.machinery, importlib.util, json, os, re, sys, types, unittest, unittest.mock

name, planes, modules, elsewhere = json.loads(sys.stdin.read())
root = f"{name}.analytics"
folder = importlib.util.find_spec(root).submodule_search_locations[0]

import rudderpipe.compat.client
drop_in = importlib.import_module(f"rudderpipe.compat.{name}")


def shim(full_name, **members):
    module = types.ModuleType(full_name)
    module.__dict__.update(members)
    return module


class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, full_name, path=None, target=None):
        is_theirs = full_name.startswith((f"{root}.", f"{drop_in.__name__}."))
        if is_theirs and not full_name.startswith(f"{root}.test"):
            raise ModuleNotFoundError(f"{full_name}: the drop-in has no such module", name=full_name)


sys.meta_path.insert(0, Nothing())
drop_in.__path__ = [folder]
sys.modules[name].analytics = drop_in
sys.modules |= {
    root: drop_in,
    f"{root}.client": shim(f"{root}.client", Client=drop_in.Client),
    f"{root}.version": shim(f"{root}.version", VERSION=drop_in.VERSION),
    f"{root}.request": shim(f"{root}.request", APIError=drop_in.APIError),
    f"{root}.consumer": shim(f"{root}.consumer", post=None),
    "mock": unittest.mock,
}
for part in ("client", "version", "request", "consumer"):
    setattr(drop_in, part, sys.modules[f"{root}.{part}"])
drop_in.Client.original_library = True
rudderpipe.compat.client.STUCK_S = 1.0
gc.disable()  # a collected client gives its slot up, and with it the count of its events


class Result(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.outcomes = {}

    def startTest(self, test):
        super().startTest(test)
        self.outcomes[test.id()] = "passed"
        os.environ["RUDDERPIPE_PIPE"] = f"suite-{os.getpid()}-{len(self.outcomes)}"
        drop_in.Client._host = planes[elsewhere.get(test.id().removeprefix(f"{root}.test."), "usual")]

    def addError(self, test, error):
        self.outcomes[test.id()] = f"{error[0].__name__}: {error[1]}"

    def addFailure(self, test, error):
        self.addError(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.addError(test, error)

    def addSkip(self, test, reason):
        self.outcomes[test.id()] = f"skipped: {reason}"


result = Result()
names = [f"{root}.test", *(f"{root}.test.{module}" for module in modules)]
unittest.defaultTestLoader.loadTestsFromNames(names).run(result)
prefixes = f"({re.escape(root)}.test|unittest.loader._FailedTest)."
print(json.dumps({re.sub(prefixes, "", test): outcome for test, outcome in result.outcomes.items()}))
"""


AWAY = {
    "rudderstack": [
        "test_client.TestClient.test_overflow",
        "test_public_api_contract.TestPublicApiContract.test_client_returns_false_and_message_when_queue_is_full",
        "test_public_api_contract.TestPublicApiContract.test_module_returns_none_when_queue_accepts_or_rejects_event",
    ],
    "segment": [
        "test_client.TestClient.test_overflow",
        "test_client.TestClient.test_queue_full_does_not_raise",
        "test_client.TestClient.test_queue_full_returns_false",
    ],
}
"""Tests of a full queue. There ``join()`` or ``send=False`` keeps it full, here a data plane that cannot be reached."""
REFUSES = {"rudderstack": ["test_client.TestClient.test_failure_on_invalid_write_key"], "segment": []}
"""Tests of a refused write key. There ``post`` is patched, here the data plane answers 401."""
NEEDS = {
    "rudderstack": {
        "test_client.TestClient.test_overflow": "client.queue.get_nowait",
        "test_client.TestClient.test_proxies": "client.consumers[0].proxies",
        "test_client.TestClient.test_synchronous": "analytics.client.post",
        "test_client.TestClient.test_user_defined_upload_size": "analytics.consumer.post",
        "test_consumer": "Consumer",
        "test_public_api_contract.TestPublicApiContract.test_client_returns_false_and_message_when_queue_is_full": (
            "client.queue.get_nowait"
        ),
        "test_request": "request._session",
        "test_request_options": "request._session",
        "test_utils": "utils",
    },
    "segment": {
        "test_client.TestClient.test_proxies": "request._session",
        "test_client.TestClient.test_user_defined_upload_size": "analytics.consumer.post",
        "test_consumer": "Consumer",
        "test_oauth": "oauth_manager",
        "test_request": "parse_retry_after",
        "test_utils": "utils",
    },
}
"""The tests that cannot pass, each with the private name in it; a module that cannot be imported counts as one test."""
PASS = {"rudderstack": 48, "segment": 46}
"""The number of the other tests, so that none is left out."""


@pytest.fixture(name="refusing")
def _refusing() -> Iterator[DataPlaneServer]:
    """Yield a data plane that knows no write key."""
    with DataPlaneServer(0, Misbehaviour(status=401)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def source(sdk: str, test: str) -> str:
    """Return the text of a test, or of a whole module of tests."""
    module, *names = test.split(".")
    text = (Path(site.getsitepackages()[0]) / sdk / "analytics" / "test" / f"{module}.py").read_text()
    if not names:
        return text
    (found,) = [
        each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.FunctionDef) and each.name == names[1]
    ]
    return ast.get_source_segment(text, found) or ""


@pytest.mark.parametrize("sdk", SUITES)
def test_the_originals_own_tests_pass(sdk: str, processes: Processes, refusing: DataPlaneServer) -> None:
    """All that do not reach into the original; a listed test that passes would hide what the drop-in can do."""
    planes = {"usual": processes.plane.url, "refuses": refusing.url, "away": f"http://127.0.0.1:{free_port()}"}
    elsewhere = {**dict.fromkeys(AWAY[sdk], "away"), **dict.fromkeys(REFUSES[sdk], "refuses")}
    for name in ("write_key", "data_plane_url", "pipe", "flush_interval_ms", "max_jobs_per_request"):
        del processes.explicit[name]  # the suites' own
    given = json.dumps([sdk, planes, SUITES[sdk].split(), elsewhere])
    ran = processes.run("-c", PROGRAM, stdin=given.encode())

    assert ran.returncode == 0, ran.stderr.decode()
    outcomes: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    failed = {test: outcome for test, outcome in outcomes.items() if outcome != "passed"}
    assert failed.keys() == NEEDS[sdk].keys(), failed
    assert len(outcomes) - len(failed) == PASS[sdk]
    assert elsewhere.keys() <= outcomes.keys()
    assert all(name in source(sdk, test) for test, name in NEEDS[sdk].items())
