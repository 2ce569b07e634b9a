"""What an application drops from its events, changes in them, and adds to them."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from rudderpipe import Client, Scrubber, request_context
from rudderpipe.errors import EventError, EventTooLarge, SettingsError
from rudderpipe.messages import context
from rudderpipe.messages.processors import Sampling
from rudderpipe.messages.scrubber import CARD_NUMBER, EMAIL
from rudderpipe.ring.ring import find
from rudderpipe.testing import CapturedEvents, capture


def client(**options: Any) -> Client:
    """Return a client that can preview messages and sends none."""
    return Client("KEY", "http://127.0.0.1:9", pipe="never", enable=False, **options)


def test_before_send_steps_change_and_drop_messages_in_turn() -> None:
    """Each step gets the result of the step before. None drops the message, which is counted."""

    def add(message: dict[str, Any]) -> dict[str, Any]:
        message["properties"]["added"] = True
        return message

    def drop(message: dict[str, Any]) -> dict[str, Any] | None:
        assert message["properties"]["added"]
        return None if message["event"] == "Ping" else {**message, "channel": "mobile"}

    ours = client(before_send=[add, drop])
    message: Any = ours.preview("track", "u", "Item Viewed", {"n": 1})

    assert message["properties"] == {"n": 1, "added": True}
    assert message["channel"] == "mobile"
    assert ours.preview("track", "u", "Ping", {}) is None
    assert ours.track("u", "Item Viewed", {}) is True
    assert ours.track("u", "Ping", {}) is False
    assert ours.counts() == {"accepted": 1, "dropped": 1}


def test_before_send_leaves_the_callers_values_alone() -> None:
    """Each step gets a copy."""
    properties = {"items": [{"n": 1}]}

    def change(message: dict[str, Any]) -> dict[str, Any]:
        message["properties"]["items"][0]["n"] = 2
        return message

    message: Any = client(before_send=change).preview("track", "u", "e", properties)

    assert message["properties"]["items"][0]["n"] == 2
    assert properties == {"items": [{"n": 1}]}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda _message: 1 / 0, "before_send: raised ZeroDivisionError"),
        (lambda _message: "text", "before_send: must return the message or None, not str"),
        (lambda message: {**message, "userId": " "}, "userId: is missing or blank"),
        (lambda message: {**message, "messageId": ""}, "messageId: is missing or blank"),
        (lambda message: {**message, "x": object()}, "x: is of type object"),
    ],
)
def test_a_faulty_before_send_sends_nothing(step: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The unchanged message might hold what the step should remove. No error is raised, and the log names the step."""
    ours = client(before_send=step)

    assert ours.track("u", "e", {"secret": "s3cret"}) is False

    assert reason in caplog.text
    assert "s3cret" not in caplog.text
    assert ours.counts() == {"invalid": 1}
    with pytest.raises(EventError, match=re.escape(reason)):
        client(before_send=step, strict=True).track("u", "e")


def test_a_sample_of_users_is_the_same_everywhere() -> None:
    """The sample depends only on the id, and not on the event or the process. The size is about the one asked for."""
    sampling = Sampling(users=0.3)
    kept = {
        number
        for number in range(2000)
        if sampling.keeps({"type": "track", "event": "e", "userId": str(number), "messageId": "m"})
    }

    assert 500 < len(kept) < 700
    for number in range(200):
        page = {"type": "page", "anonymousId": str(number), "messageId": str(number)}
        assert sampling.keeps(page) == (number in kept)
    assert sorted(kept)[:3] == [2, 6, 17]  # this hash is the same on every host and in every version


def test_a_sample_of_events_goes_by_name_then_by_type() -> None:
    """0 keeps no event, 1 keeps all, and a number in between keeps a part."""
    sampling = Sampling({"Item Viewed": 0.5, "page": 0.0, "Home": 1.0})

    def kept(**message: Any) -> int:
        return sum(sampling.keeps({**message, "userId": "u", "messageId": f"m{number}"}) for number in range(1000))

    assert 400 < kept(type="track", event="Item Viewed") < 600
    assert kept(type="track", event="Other") == 1000
    assert kept(type="page", name="Docs") == 0
    assert kept(type="page", name="Home") == 1000
    assert kept(type="identify") == 1000


@pytest.mark.parametrize("part", [-0.1, 1.1, "half", True])
def test_a_sample_is_a_number_from_0_to_1(part: Any) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError, match=r"sample_events\['e'\]"):
        client(sample_events={"e": part})
    with pytest.raises(SettingsError, match="sample_users"):
        client(sample_users=part)


def test_the_scrubber_replaces_by_key_and_by_pattern() -> None:
    """The scrubber looks at any depth of properties, traits and context. Ids and names of events stay."""
    ours = client(scrubber=Scrubber(patterns=[EMAIL, CARD_NUMBER]))
    message: Any = ours.preview(
        "track",
        "ann@example.com",
        "Signed up",
        {
            "Api-Key": "k",
            "nested": [{"PASSWORD": {"x": 1}, "note": "mail ann@example.com, card 4111 1111 1111 1111"}],
            "n": 5,
        },
        {"headers": {"authorization": "Basic abc"}, "ip": "1.1.1.1"},
    )

    gone = "[scrubbed]"
    assert message["userId"] == "ann@example.com"
    assert message["properties"] == {
        "Api-Key": gone,
        "nested": [{"PASSWORD": gone, "note": f"mail {gone}, card {gone}"}],
        "n": 5,
    }
    assert (message["context"]["headers"], message["context"]["ip"]) == ({"authorization": gone}, "1.1.1.1")
    traits: Any = ours.preview("identify", "u", {"email": "ann@example.com", "ssn": 1})
    assert traits["traits"] == traits["context"]["traits"] == {"email": gone, "ssn": gone}


def test_the_scrubber_runs_after_before_send() -> None:
    """A step may add a value that must be scrubbed."""
    ours = client(scrubber=Scrubber(keys=["pin"]), before_send=lambda message: {**message, "traits": {"pin": 1}})
    message: Any = ours.preview("track", "u", "e", {"password": "kept: its key was not asked for"})

    assert message["traits"] == {"pin": "[scrubbed]"}
    assert message["properties"]["password"].startswith("kept")


def test_the_clients_context_and_integrations_are_defaults() -> None:
    """For each key the call's value wins, then the request's, then the client's. The library cannot be replaced."""
    ours = client(context={"app": {"name": "shop"}, "ip": "0", "locale": "de"}, integrations={"All": True, "X": False})
    with request_context({"ip": "1", "locale": "en"}), request_context({"locale": "fr"}):
        message: Any = ours.preview(
            "track", "u", "e", None, {"page": {"path": "/"}, "locale": "it"}, integrations={"X": True}
        )
        whole: Any = ours.preview("track", {"userId": "u", "event": "e", "context": {"locale": "it"}})

    assert message["context"].pop("library")["name"] == "rudderpipe"
    assert message["context"] == {"app": {"name": "shop"}, "ip": "1", "locale": "it", "page": {"path": "/"}}
    assert message["integrations"] == {"All": True, "X": True}
    assert (whole["context"]["ip"], whole["context"]["locale"]) == ("1", "it")
    assert whole["integrations"] == {"All": True, "X": False}
    after: Any = ours.preview("track", "u", "e")
    assert after["context"]["ip"] == "0"


def test_a_request_context_belongs_to_its_thread() -> None:
    """Another thread does not see the context. Ending the context in another thread is no error."""
    seen = []
    with request_context({"ip": "1"}):
        thread = threading.Thread(target=lambda: seen.append(context.current.get()))
        thread.start()
        thread.join()
        pushed = context.push({"x": 1})
    thread = threading.Thread(target=context.pop, args=(pushed,))
    thread.start()
    thread.join()

    assert seen == [None]
    with pytest.raises(EventError, match="context: must be a mapping"):
        context.push("text")  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("name", ["context", "integrations"])
def test_a_default_that_cannot_be_sent_is_a_settings_error(name: str) -> None:
    """The error comes when the client is made, not at each event."""
    with pytest.raises(SettingsError, match=f"{name}.x: is of type object"):
        client(**{name: {"x": object()}})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"before_send": 5}, "setting before_send: must be callable, not int"),
        ({"before_send": [print, "text"]}, "setting before_send: must be callable, not str"),
        ({"default": 5}, "setting default: must be callable, not int"),
        ({"on_error": "x"}, "setting on_error: must be callable, not str"),
        ({"options": {"errorHandler": "x"}}, "setting on_error: must be callable, not str"),
        ({"options": 5}, "setting options: must be a mapping, not int"),
        ({"scrubber": "password"}, "setting scrubber: must be a rudderpipe.Scrubber, not str"),
        ({"sample_users": "x"}, "setting sample_users: must be a number from 0 to 1"),
    ],
)
def test_arguments_that_are_no_settings_are_checked_too(wrong: dict[str, Any], text: str) -> None:
    """Otherwise each event would have to fail."""
    with pytest.raises(SettingsError) as caught:
        client(**wrong)
    assert str(caught.value) == text


def test_a_callback_must_be_callable(caplog: pytest.LogCaptureFixture) -> None:
    """The event is refused, because the application would wait for its callback forever."""
    ours = client()
    wrong: Any = "no function"
    assert ours.track("u", "e", callback=wrong) is False
    assert "event refused: callback: must be callable, not str" in caplog.text


def test_default_encodes_unknown_types() -> None:
    """``default`` is called for values in every part of a message."""
    ours = client(default=lambda value: f"<{type(value).__name__}>")
    message: Any = ours.preview("track", "u", "e", {"a": [object()]}, {"b": object()})
    whole: Any = ours.preview("track", {"userId": "u", "event": "e", "properties": {"a": object()}})

    assert message["properties"] == {"a": ["<object>"]}
    assert message["context"]["b"] == "<object>"
    assert whole["properties"] == {"a": "<object>"}


def test_a_preview_is_the_message_that_a_call_would_send(tmp_path: Path) -> None:
    """The preview makes no ring, no count, no captured event and no callback, also after a shutdown."""
    ours = Client(
        "KEY",
        "http://127.0.0.1:9",
        runtime_dir=str(tmp_path / "run"),
        pipe=f"preview-{os.getpid()}",
        before_send=lambda message: {**message, "extra": 1},
        context={"app": {"v": 2}},
        scrubber=Scrubber(),
    )
    never: Any = pytest.fail
    with capture() as captured, request_context({"ip": "1"}):
        given = {"properties": {"n": 1, "password": "x"}, "message_id": "m"}
        message = ours.preview("track", "u", "e", callback=never, **given)
        whole = ours.preview("group", {"userId": "u", "groupId": 7, "traits": {"a": 1}}, never)

    assert message is not None
    assert message["properties"] == {"n": 1, "password": "[scrubbed]"}
    assert (message["extra"], message["context"]["app"], message["context"]["ip"]) == (1, {"v": 2}, "1")
    assert (message["type"], message["messageId"], message["userId"]) == ("track", "m", "u")
    assert whole is not None
    assert (whole["type"], whole["groupId"], whole["traits"]) == ("group", "7", {"a": 1})
    assert not captured
    assert ours.counts() == {}
    assert not (tmp_path / "run").exists()
    assert find(ours.settings) is None
    ours.shutdown()
    assert ours.preview("alias", "p", "u") is not None


def test_a_preview_of_a_wrong_event_raises() -> None:
    """A preview raises also without ``strict``. The error is not counted."""
    ours = client()
    large = {"text": "x" * 4_000_000}
    wrong: Any
    for wrong, text in (
        (("track", "", "e"), "user_id: is missing or blank"),
        (("track", "u", "e", {"a": [object()]}), r"properties\.a\[0\]: is of type object"),
        (("sing", "u", "e"), "kind: must be one of identify, track"),
    ):
        with pytest.raises(EventError, match=text):
            ours.preview(*wrong)
    with pytest.raises(EventTooLarge):
        ours.preview("track", "u", "e", large)
    with pytest.raises(EventError, match="before_send: raised ZeroDivisionError"):
        client(before_send=lambda _message: {"x": 1 / 0}).preview("track", "u", "e")
    with pytest.raises(TypeError, match="propertys"):
        ours.preview("track", "u", "e", propertys={})
    assert ours.counts() == {}


@pytest.fixture(name="captured")
def _captured() -> Any:
    with capture() as captured:
        yield captured


def test_capture_keeps_the_messages_of_all_clients(captured: CapturedEvents) -> None:
    """Clients from before and within the block are captured, after ``before_send``, and their pipe is not touched."""
    ours = Client("KEY", "http://127.0.0.1:9", before_send=lambda message: {**message, "shaped": True})
    ours.identify("u", {"plan": "pro"})
    ours.track("u", "Item Viewed", {"price": 19.95, "items": [1, 2]})

    assert [message["type"] for message in captured] == ["identify", "track"]
    assert captured[1]["shaped"]
    assert captured.of_type("identify")[0]["traits"] == {"plan": "pro"}
    found = captured.assert_tracked("Item Viewed", user_id="u", properties={"price": 19.95})
    assert found is captured[1]
    captured.assert_tracked("Item Viewed", times=1, context={"library": {"name": "rudderpipe"}})
    captured.assert_not_tracked("Other")
    assert json.dumps(captured[:1])
    captured.clear()
    assert not captured


def test_a_failed_assertion_of_capture_shows_the_difference(captured: CapturedEvents) -> None:
    """The text has the difference to each event of that name, or the names that were tracked."""
    ours = Client("KEY", "http://127.0.0.1:9")
    with pytest.raises(AssertionError, match="nothing was tracked"):
        captured.assert_tracked("Item Viewed")
    ours.track("u", "Item Viewed", {"price": 1, "nested": {"a": [1]}})
    for wanted, text in (
        ({"properties": {"price": 2}}, r"with properties\.price=1 instead of 2"),
        ({"properties": {"nested": {"b": 1}}}, r"without properties\.nested\.b"),
        ({"user_id": 7}, "with userId='u' instead of '7'"),
        ({"times": 2}, "was tracked 1 times, not 2"),
    ):
        with pytest.raises(AssertionError, match=text):
            captured.assert_tracked("Item Viewed", **wanted)
    with pytest.raises(AssertionError, match=r"the tracked events are \['Item Viewed'\]"):
        captured.assert_tracked("Item Bought")
    with pytest.raises(AssertionError, match="'Item Viewed' was tracked 1 times"):
        captured.assert_not_tracked("Item Viewed")


def test_capture_raises_the_error_of_a_wrong_call(captured: CapturedEvents) -> None:
    """In production the error would only be logged."""
    ours = Client("KEY", "http://127.0.0.1:9", before_send=lambda message: None)
    with pytest.raises(EventError):
        ours.track("", "e")
    assert ours.track("u", "e") is False
    assert captured.refused == {"invalid": 1, "dropped": 1}
    assert ours.flush()
    assert ours.counts() == {"accepted": 0, "invalid": 1, "dropped": 1}


def test_clients_are_as_before_after_a_capture() -> None:
    """This holds also for clients that were made within the block."""
    with capture() as captured:
        ours = client()
    assert ours.track("u", "e")
    assert (len(captured), ours.counts()) == (0, {"accepted": 1})
