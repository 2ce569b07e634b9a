"""The page of ``rudderpipe web`` in Chromium, above a real pipe: all well, and each trouble in words."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import shift_path_info

import pytest

from native_tests.browser import WIDTHS, Browser
from native_tests.processes import Processes, wait_until
from native_tests.web_pages import TOKEN, WebPage
from rudderpipe.observe.web import application
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

STATIC = Path(__file__).parent.parent / "rudderpipe" / "observe" / "web" / "static"
NONE = "\N{EN DASH}"
QUEUE = "{rudder}:rudderEventsQueue:"


@pytest.fixture(name="browser", scope="module")
def _browser() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory:
        browser = Browser(Path(directory))
        yield browser
        browser.end()


@pytest.fixture(name="web")
def _web(processes: Processes, redis_server: RedisServer, directory: Path) -> Iterator[WebPage]:
    web = WebPage(processes, redis_server, directory)
    yield web
    web.end()


def number(browser: Browser, name: str) -> float:
    """Return a number that the page shows, without its unit; -1 when it is not known."""
    text = browser.text(f"[data-t='{name}']").partition("/")[0].replace(",", "")
    return -1.0 if text in ("", NONE) else float(text)


def log_in(browser: Browser, web: WebPage) -> None:
    """Log in with the token, and wait for the page."""
    browser.open(web.url + "login")
    browser.call("fill", "[name=token]", TOKEN)
    browser.call("press", "[name=token]", "Enter")
    browser.says("[data-t=access]", "May change")


def fail_jobs(web: WebPage, events: int = 3) -> None:
    """Have the data plane refuse jobs of one event each, and be well again."""
    web.processes.explicit["flush_at"] = 1
    web.processes.plane.misbehaviour = Misbehaviour(401)
    assert web.send(events) == events
    wait_until(lambda: web.processes.status().events.failed == events)
    web.processes.plane.misbehaviour = Misbehaviour()


def finds(browser: Browser, code: str, *words: str) -> None:
    """Wait for a finding, whose text has these words, and for the verdict to say that not all is well."""
    for word in words:
        browser.says(f"[data-code={code}]", word)
    assert "`" not in browser.text(f"[data-code={code}]")
    browser.says(f"[data-code={code}]", "What to do: ")
    assert browser.call("getAttribute", "#verdict", "data-level") in ("warning", "trouble")
    assert "All is well" not in browser.text("#verdict")


def test_all_is_well_and_the_flow_moves(browser: Browser, web: WebPage) -> None:
    """One sentence says that all is well. Rates, totals and curves follow a pipe under load."""
    web.serve()
    web.send_steadily()
    browser.open(web.url)

    browser.says("#verdict", "All is well: every accepted event is accounted for and moving.")
    assert browser.call("getAttribute", "#verdict", "data-level") == "ok"
    wait_until(lambda: number(browser, "in-rate") > 50 and number(browser, "out-rate") > 50)
    browser.says("[data-t=p50]", "s")
    browser.wait("document.querySelectorAll('.card.moves').length >= 2")
    before = number(browser, "accepted")
    wait_until(lambda: number(browser, "accepted") > before)
    browser.says("[data-s=account]", "In balance")
    browser.wait("document.querySelectorAll('#sparklines path.line').length >= 3")
    browser.says("#producers", "pid ")
    assert browser.text("#live").startswith("Live")
    assert browser.call("title").startswith("OK")
    assert browser.errors() == []


def test_redis_is_away(browser: Browser, web: WebPage) -> None:
    """What is only in Redis is not known then, which is not 0, and the page says it when Redis is back."""
    web.serve()
    web.send_steadily()
    browser.open(web.url)
    browser.says("[data-t=waiting]", "0")

    web.redis_server.kill()

    finds(browser, "redis_away", "The queue in Redis cannot be read")
    browser.says("[data-s=queue]", "Redis cannot be read")
    assert browser.text("[data-t=waiting]") == browser.text("[data-t=jobs]") == NONE
    browser.says("#failed-rights", "Not known while Redis cannot be read.")
    web.redis_server.start()
    browser.says("#verdict", "All is well")


def test_several_queues_have_a_table(browser: Browser, web: WebPage) -> None:
    """With one queue it is hidden."""
    web.serve()
    browser.open(web.url)
    browser.says("#verdict", "No event has been sent")
    assert browser.call("evaluate", "document.getElementById('queues-panel').hidden") is True
    web.processes.explicit["queues"] = 3
    web.send_steadily()

    browser.says("#queues", "rudder-2")
    browser.says("[data-t=generations]", "generation 1, with 3 queues, gets the new events")
    assert browser.call("evaluate", "document.querySelectorAll('#queues tr').length") == 4
    assert browser.errors() == []


def test_the_data_plane_responds_with_503(browser: Browser, web: WebPage) -> None:
    """The card of the data plane has its status and its text, and says when the next try is."""
    web.processes.plane.misbehaviour = Misbehaviour(503)
    web.serve()
    web.send_steadily()
    browser.open(web.url)

    browser.says("[data-s=plane]", "status 5xx")
    browser.says("[data-t=last-reason]", "simulated failure")
    browser.says("[data-s=sender]", "Waits to try again")
    browser.says("[data-s=queue]", "Jobs wait")
    wait_until(lambda: "in " in browser.text("[data-t=retry-in]"))
    finds(browser, "retrying")


def test_the_ring_is_full(browser: Browser, web: WebPage) -> None:
    """Calls that are refused are a trouble of now, with the number and the reason."""
    web.processes.explicit |= {"autostart": False, "max_internal_queue_size": 100}
    web.serve()
    browser.open(web.url)
    browser.says("#live", "Live")

    assert web.send(150) == 100

    finds(browser, "ring_full", "100 events of 100")
    finds(browser, "refused_full", "50 events were refused")
    browser.says("[data-s=ring]", "No flusher empties it")
    assert browser.text("[data-t='refused full']") == "50"
    assert browser.call("getAttribute", "#ring-fill", "aria-valuenow") == "100"


def test_no_flusher_serves_the_ring(browser: Browser, web: WebPage) -> None:
    """Events wait in the ring, and all is well once a flusher has taken them."""
    web.processes.explicit["autostart"] = False
    web.send(10)
    web.serve()
    browser.open(web.url)

    finds(browser, "no_flusher", "10 events wait in the ring")
    browser.says("[data-s=ring]", "No flusher empties it")
    assert browser.text("[data-code=no_flusher] .fix code >> nth=0") == "rudderpipe drain"
    web.run_flusher()
    web.run_sender()
    browser.says("#verdict", "All is well")


def test_no_sender_takes_the_jobs(browser: Browser, web: WebPage) -> None:
    """Jobs wait in Redis."""
    web.processes.explicit["autostart"] = False
    web.send(10)
    web.run_flusher()
    web.serve()
    browser.open(web.url)

    finds(browser, "no_sender", "no sender has the queue")
    browser.says("[data-s=sender]", "No sender takes the jobs")


def test_a_silent_flusher(browser: Browser, web: WebPage) -> None:
    """A stopped process is no crash, so only its heartbeat tells."""
    web.send_steadily()
    flusher = web.processes.flusher()
    web.serve()
    browser.open(web.url)
    flusher.send_signal(signal.SIGSTOP)

    finds(browser, "flusher_silent", "no sign of life")
    flusher.send_signal(signal.SIGCONT)
    browser.says("#verdict", "All is well")


def test_the_account_is_out_of_balance(browser: Browser, web: WebPage) -> None:
    """The sum has a mark and words that say that it is wrong."""
    web.send(10)
    assert web.processes.delivered(10)
    wait_until(lambda: web.processes.status().events.delivered == 10)
    for key in web.redis.scan_iter("{rudder}:rudderpipe:*"):
        if web.redis.type(key) == "hash":
            web.redis.hincrby(key, "delivered", 5)
    web.serve()
    browser.open(web.url)

    finds(browser, "account_unbalanced", "does not balance")
    browser.says("[data-s=account]", "Out of balance")


def test_the_queue_is_paused_and_resumed(browser: Browser, web: WebPage) -> None:
    """A person with the token pauses the queue and resumes it; the page asks before it does either."""
    web.serve(has_token=True)
    web.send_steadily()
    log_in(browser, web)

    browser.call("click", "#pause")
    browser.says("#confirm", "Pause the queue?")
    browser.call("click", "#confirm-yes")
    finds(browser, "paused", "The queue is paused")
    browser.says("[data-s=queue]", "Paused")
    assert web.redis.exists(f"{QUEUE}meta-paused")

    browser.says("#pause", "Resume the queue")
    browser.call("click", "#pause")
    browser.call("click", "#confirm-yes")
    browser.says("#verdict", "All is well")
    assert not web.redis.exists(f"{QUEUE}meta-paused")


def test_failed_jobs_are_shown_to_everyone_and_changed_with_the_token_only(browser: Browser, web: WebPage) -> None:
    """A visitor sees each job with its reason. With the token, jobs are shown, retried and deleted."""
    fail_jobs(web)
    web.serve(has_token=True)
    browser.open(web.url)
    finds(browser, "failed_jobs", "3 jobs with 3 events")
    browser.says("#jobs", "status 401")
    aged = browser.text("#jobs .age")
    wait_until(lambda: browser.text("#jobs .age") != aged)
    browser.says("#failed-rights", "log in with the token")
    assert not browser.sees("#bulk")
    assert not browser.sees("#jobs >> text=Retry")
    assert not browser.sees("#jobs >> text=Delete")
    assert not browser.sees("#pause")

    log_in(browser, web)
    browser.call("click", "[aria-label='Show job 1']")
    browser.says("#job", "1 event: 1 track")
    assert "Item Viewed" not in browser.text("#job")  # without --show-events
    browser.call("press", "#job", "Escape")
    browser.wait("!document.querySelector('#job').open")
    assert browser.call("evaluate", "document.activeElement.ariaLabel") == "Show job 1"

    browser.call("click", "[aria-label='Retry job 1']")
    browser.says("#failed-said", "1 job is in line again.")
    assert web.processes.delivered(1)
    browser.says("[data-t=failed-hint]", "2 jobs")

    browser.call("check", "[aria-label='Select job 2']")
    browser.call("click", "[data-act=delete][data-of=selected]")
    browser.says("#confirm", "Delete 1 failed job?")
    browser.call("click", "#confirm-yes")
    browser.says("#failed-said", "1 job is deleted.")
    browser.says("#sum", "removed by hand")
    assert web.redis.zrange(f"{QUEUE}failed", 0, -1) == ["3"]


def test_all_jobs_are_changed_only_when_their_number_is_typed(browser: Browser, web: WebPage) -> None:
    """Another number, or a return in its field, changes nothing. The filter decides which jobs all are."""
    fail_jobs(web)
    for job in ("1", "3"):
        web.redis.hset(f"{QUEUE}{job}", "failedReason", "status 413: too large")
    web.serve("--show-events", has_token=True)
    log_in(browser, web)
    browser.says("#jobs", "status 401")
    browser.call("fill", "[name=q]", "TOO LARGE")
    browser.call("press", "[name=q]", "Enter")
    browser.says("[data-t=failed-hint]", "2 jobs match the filter")
    assert "q=TOO+LARGE" in browser.call("getAttribute", "#download", "href")

    browser.call("click", "[data-act=retry][data-of=all]")
    browser.says("#confirm", "Retry all 2 failed jobs that match the filter?")
    browser.call("fill", "[name=typed]", "3")
    assert browser.call("isDisabled", "#confirm-yes")
    browser.call("press", "[name=typed]", "Enter")
    assert browser.sees("#confirm")
    browser.call("fill", "[name=typed]", "2")
    browser.call("press", "[name=typed]", "Enter")
    browser.says("#failed-said", "2 jobs are in line again.")
    browser.says("#failed-rights", "No failed job matches the filter.")
    assert web.processes.delivered(2)
    assert web.redis.zcard(f"{QUEUE}failed") == 1


def test_more_jobs_than_a_page_and_a_call_hold(browser: Browser, web: WebPage) -> None:
    """The list grows by 50 jobs, and a call that changes 1,000 is made again until all are changed."""
    fail_jobs(web, 1050)
    web.serve(has_token=True)
    log_in(browser, web)

    browser.says("#more", "Show more (50 of 1,050)")
    browser.call("click", "#more")
    browser.says("#more", "Show more (100 of 1,050)")
    assert browser.call("evaluate", "document.querySelectorAll('#jobs li').length") == 100
    browser.call("check", "#select-all")
    browser.says("[data-act=delete][data-of=selected]", "(100)")
    browser.call("click", "[data-act=delete][data-of=all]")
    browser.says("#confirm", "Delete all 1,050 failed jobs?")
    browser.call("fill", "[name=typed]", "1,050")
    browser.call("click", "#confirm-yes")

    browser.says("#failed-said", "1,050 jobs are deleted.")
    assert browser.asked("POST /api/failed/delete") == 2
    assert web.redis.zcard(f"{QUEUE}failed") == 0
    browser.says("#failed-rights", "None: no event has failed.")


def test_jobs_that_nobody_saw_are_left_alone(browser: Browser, web: WebPage) -> None:
    """A job that fails while the dialog is open makes the typed number wrong, and the dialog says so."""
    fail_jobs(web, 2)
    web.serve(has_token=True)
    log_in(browser, web)
    browser.says("[data-t=failed-hint]", "2 jobs")
    browser.call("click", "[data-act=delete][data-of=all]")
    browser.call("fill", "[name=typed]", "2")
    web.redis.zadd(f"{QUEUE}failed", {"another": 1})

    browser.call("click", "#confirm-yes")

    browser.says("[data-t=confirm-error]", "There are 3 such jobs now")
    assert web.redis.zcard(f"{QUEUE}failed") == 3


def test_after_the_logout_nothing_can_be_changed(browser: Browser, web: WebPage) -> None:
    """The buttons go with the session."""
    fail_jobs(web, 1)
    web.serve(has_token=True)
    log_in(browser, web)
    browser.says("#bulk", "Delete all 1")

    browser.call("click", "#log-out")

    browser.says("[data-t=access]", "Read only")
    browser.says("#jobs", "status 401")
    assert not browser.sees("#bulk")
    assert not browser.sees("#pause")
    assert browser.sees("#log-in")


class Quiet(WSGIRequestHandler):
    """A handler of requests that logs nothing."""

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing."""


def test_the_page_works_below_a_path(browser: Browser, web: WebPage) -> None:
    """A mounted page has only relative addresses. The application says who may change."""
    fail_jobs(web, 1)
    page = application(web.processes.settings, access=lambda _environ: "all")

    def mounted(environ: dict[str, Any], start_response: Any) -> Any:
        assert shift_path_info(environ) == "ops", "the page asked outside of its path"
        assert shift_path_info(environ) == "pipe", "the page asked outside of its path"
        return page(environ, start_response)

    with make_server("127.0.0.1", 0, mounted, handler_class=Quiet) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            browser.open(f"http://127.0.0.1:{server.server_port}/ops/pipe/")
            browser.says("[data-t=access]", "May change")
            browser.says("#jobs", "status 401")
            browser.call("click", "[aria-label='Retry job 1']")
            browser.says("#failed-said", "1 job is in line again.")
            assert not browser.sees("#log-in")
            assert not browser.sees("#log-out")
            assert browser.errors() == []
            browser.call("goto", "about:blank")
        finally:
            server.shutdown()
            serving.join()


def test_the_events_of_a_job_are_shown_if_the_server_may(browser: Browser, web: WebPage) -> None:
    """The write key is never among them."""
    fail_jobs(web, 1)
    web.serve("--show-events", has_token=True)
    log_in(browser, web)
    browser.call("click", "[aria-label='Show job 1']")

    browser.says("#job-messages", "Item Viewed")
    assert "WRITE_KEY" not in browser.text("body")


def test_markup_in_a_reason_is_text(browser: Browser, web: WebPage) -> None:
    """What a data plane responds is shown, and never becomes a part of the page."""
    fail_jobs(web, 1)
    reason = "<script>document.title='x'</script><img src=x onerror=\"document.title='y'\">"
    web.redis.hset(f"{QUEUE}1", "failedReason", reason)
    web.serve()
    browser.open(web.url)

    browser.says("#jobs", reason)
    browser.call("click", "[aria-label='Show job 1']")
    browser.says("#job", reason)
    assert browser.call("evaluate", "document.querySelectorAll('#jobs script, #jobs img, #job img').length") == 0
    assert browser.call("title") not in ("x", "y")
    assert browser.errors() == []


def test_a_server_that_is_away_is_said_in_words(browser: Browser, web: WebPage) -> None:
    """Old figures are marked as old, and the page goes on when the server is back."""
    web.serve()
    web.send(10)
    browser.open(web.url)
    browser.says("[data-t=accepted]", "10")

    web.kill_server()

    browser.says("#verdict", "Not connected since ")
    browser.says("#live", "Not connected since ")
    browser.says("[data-t=as-of]", "not live")
    assert browser.call("getAttribute", "#figures", "data-stale") == "true"
    assert browser.call("getAttribute", "#verdict", "data-level") == "unknown"
    web.serve_again()
    browser.says("#live", "Live")
    browser.says("#verdict", "All is well")
    assert browser.call("getAttribute", "#figures", "data-stale") == "false"


def test_a_login_that_has_ended_is_said_with_the_way_back(browser: Browser, web: WebPage) -> None:
    """Where even a look needs the token, the page cannot know more, and links to the login."""
    web.serve("--allow-host", "pipe.example.com", has_token=True)
    log_in(browser, web)

    web.kill_server()  # sessions are in its memory
    web.serve_again()

    browser.says("#verdict", "Logged out since ")
    browser.says("[data-t=note]", "Log in first.")
    assert browser.call("getAttribute", "#figures", "data-stale") == "true"
    browser.call("click", "#log-in")
    browser.says("h1", "Log in")


def test_a_hidden_tab_asks_nothing(browser: Browser, web: WebPage) -> None:
    """A tab that nobody sees costs the server nothing, and is at once up to date when somebody does."""
    web.serve()
    browser.open(web.url, is_plain=True)
    wait_until(lambda: browser.asked("GET /api/flow") >= 2)

    browser.cover()
    browser.wait("document.hidden")
    asked = browser.asked("GET /api/flow")
    # Two seconds of the page's own clock, in which it would have asked twice.
    browser.call("evaluate", "new Promise((resolve) => setTimeout(resolve, 2500))")
    assert browser.asked("GET /api/flow") == asked
    assert browser.call("getAttribute", "#figures", "data-stale") == "true"

    browser.call("bringToFront")
    wait_until(lambda: browser.asked("GET /api/flow") > asked)
    browser.says("#live", "Live")


def test_a_screen_reader_hears_the_verdict_only_when_it_changes(browser: Browser, web: WebPage) -> None:
    """The figures change each second, also those within the verdict; nothing but a new verdict is read out."""
    web.processes.explicit["autostart"] = False
    web.serve()
    browser.open(web.url)
    browser.says("#live", "Live")
    browser.call(
        "evaluate",
        "new MutationObserver((found) => (window.heard = (window.heard || 0) + found.length))"
        ".observe(document.querySelector('#announcement'), { childList: true, characterData: true, subtree: true })",
    )

    web.send(10)
    browser.says("#verdict", "10 events wait")
    web.send(10)
    browser.says("#verdict", "20 events wait")

    assert browser.call("evaluate", "window.heard") == 1
    assert browser.call("evaluate", "[...document.querySelectorAll('[aria-live], [role=status]')].length") <= 3


def test_the_doctor_examines_on_demand(browser: Browser, web: WebPage) -> None:
    """The worst comes first, each with what to do."""
    web.serve()
    web.send(10)
    browser.open(web.url)
    assert browser.asked("GET /api/doctor") == 0

    browser.call("click", "#examine")

    browser.says("#doctor-said", "Examined at ")
    browser.says("#fine-summary", "What is ok: ")
    assert "OK · " not in browser.text("#checks")
    browser.call("click", "#fine-summary")
    browser.says("#fine", "OK · settings: ")
    assert browser.asked("GET /api/doctor") == 1


def test_direct_mode_shows_dead_letters(browser: Browser, web: WebPage) -> None:
    """Without a queue there are no cards of queue and sender."""
    del web.processes.explicit["redis"]
    web.processes.explicit["max_attempts"] = 1
    web.processes.plane.misbehaviour = Misbehaviour(401)
    web.send(3)
    wait_until(lambda: web.processes.status().events.failed == 3)
    web.serve()
    browser.open(web.url)

    finds(browser, "dead_letters")
    assert browser.text("[data-t=failed-title]") == "Dead letters"
    browser.says("#jobs", "status 401")
    assert not browser.sees("#queue-card")
    assert not browser.sees("#sender-card")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("form", WIDTHS)
def test_axe_finds_no_fault(browser: Browser, web: WebPage, form: str, scheme: str) -> None:
    """With troubles, failed jobs, the doctor's findings and each dialog; nor does the page scroll sideways."""
    fail_jobs(web)
    web.serve("--show-events", has_token=True)
    log_in(browser, web)

    def is_good() -> None:
        assert browser.faults() == []
        assert browser.call("evaluate", "document.documentElement.scrollWidth <= innerWidth")

    browser.call("emulateMedia", {"colorScheme": scheme})
    browser.call("setViewportSize", {"width": WIDTHS[form], "height": 900})
    browser.says("#jobs", "status 401")
    browser.call("click", "#examine")
    browser.says("#doctor-said", "Examined at ")
    is_good()
    browser.call("click", "[aria-label='Show job 1']")
    browser.says("#job-messages", "Item Viewed")
    is_good()
    browser.call("press", "#job", "Escape")
    browser.call("click", "[data-act=delete][data-of=all]")
    browser.says("#confirm", "Delete all 3 failed jobs?")
    is_good()
    browser.call("press", "[name=typed]", "Escape")
    web.kill_server()
    browser.says("#verdict", "Not connected since ")
    is_good()
    web.serve_again()
    browser.open(web.url + "login", WIDTHS[form], scheme)
    browser.call("fill", "[name=token]", "wrong")
    browser.call("press", "[name=token]", "Enter")
    browser.wait("document.querySelector('#said').textContent")
    is_good()


RATES = """
import { quantile, Rates } from %s;
const rates = new Rates();
const said = [];
const add = (atS, total) => (rates.add(atS, { total }), said.push(rates.of('total')));
add(0, 100);                                      // the first sight is no rate
add(1, 110); add(2, 120); add(3, 130);            // 10 a second
for (let s = 4; s < 20; s++) add(s, 130);         // it stands still, and that is 0 in the end
add(20, 5);                                       // begun again
for (let s = 21; s < 40; s++) add(s, 5 + 50 * Math.floor((s - 20) / 5));  // read every 5 s: 10 a second
add(40, null);                                    // not known
const late = new Rates();                         // first seen a second before the change of an older reading
for (const [atS, total] of [[0, 100], [1, 150], [6, 200], [11, 250]]) late.add(atS, { total });
const buckets = [[0.01, 50], [0.1, 90], [null, 100]];
console.log(JSON.stringify([said.slice(0, 4), said[13], said[19], said[20], said[39], said[40], late.of('total'),
  quantile(buckets, 0.5), quantile(buckets, 0.7), quantile(buckets, 0.99),
  quantile([[0.01, 0]], 0.5), quantile(null, 0.5)]));
"""


def test_rates_are_made_of_the_moments_at_which_a_total_changed() -> None:
    """A total that is read every five seconds has a steady rate all the same, and what is not known has none."""
    node = shutil.which("node")
    assert node, "node is missing: `make test` installs it"
    program = RATES % json.dumps((STATIC / "rates.js").as_uri())
    done = subprocess.run([node, "--input-type=module"], input=program.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()

    first, falling, still, begun_again, slow, unknown, late, *quantiles = json.loads(done.stdout)

    assert first == [None, None, 10, 10]
    assert 0 < falling < 10
    assert still == 0
    assert begun_again is None
    assert slow == pytest.approx(10)
    assert unknown is None
    assert late == 10
    assert quantiles == [0.01, pytest.approx(0.055), 0.1, None, None]


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.glob("*.js")))
def test_each_script_can_be_read_by_node(name: str) -> None:
    """A slip of the pen is found here, and not by the person who opens the page."""
    node = shutil.which("node")
    assert node, "node is missing: `make test` installs it"
    source = (STATIC / name).read_bytes()
    done: Any = subprocess.run([node, "--input-type=module", "--check"], input=source, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
