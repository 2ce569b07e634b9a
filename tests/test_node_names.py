"""The Node SDK's option names: the setting of each, and the error for options without one."""

from __future__ import annotations

import math
import queue
from typing import Any

import pytest

from rudderpipe import Client
from rudderpipe.errors import SettingsError
from rudderpipe.messages import node_names
from rudderpipe.queue.keys import Keys
from rudderpipe.settings import Settings

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"dataPlaneUrl": URL + "///"}, {"data_plane_url": URL}),
        ({"dataPlaneUrl": ""}, {"data_plane_url": "https://hosted.rudderlabs.com"}),
        ({"host": URL}, {"data_plane_url": URL}),
        ({"dataPlaneUrl": URL, "host": "http://other"}, {"data_plane_url": URL}),
        ({"host": "http://other", "dataPlaneUrl": URL}, {"data_plane_url": URL}),
        ({"path": "v1/batch/"}, {"path": "/v1/batch"}),
        ({"flushAt": 0}, {"flush_at": 1}),
        ({"flushAt": -3}, {"flush_at": 1}),
        ({"flushAt": "7"}, {"flush_at": 7}),
        ({"flushAt": 2.5}, {"flush_at": 2}),
        ({"flushAt": None}, {}),
        ({"flushInterval": 0}, {"flush_interval_ms": 10_000}),
        ({"flushInterval": 20_000}, {"flush_interval_ms": 20_000}),
        ({"maxQueueSize": 460_800}, {"max_batch_bytes": 460_800}),
        ({"maxInternalQueueSize": 20_000}, {"max_internal_queue_size": 20_000}),
        ({"logLevel": "warn"}, {"log_level": "warning"}),
        ({"enable": False}, {"enable": False}),
        ({"enable": 0}, {"enable": True}),
        ({"gzip": False}, {"gzip": False}),
        ({"gzip": 0}, {"gzip": True}),
        ({"timeout": 5000}, {"timeout_s": 5.0}),
        ({"timeout": "2.5s"}, {"timeout_s": 2.5}),
        ({"timeout": "1m"}, {"timeout_s": 60.0}),
        ({"timeout": False}, {}),
        ({"retryCount": 3}, {"max_attempts": 4}),
        ({"retryCount": 0}, {"max_attempts": 1}),
        ({"errorHandler": print}, {"on_error": print}),
        ({"axiosConfig": {"proxy": {"host": "p", "port": 8080}}}, {"proxy_url": "http://p:8080"}),
        (
            {
                "axiosConfig": {
                    "proxy": {"protocol": "https:", "host": "p", "auth": {"username": "u@", "password": "/"}}
                }
            },
            {"proxy_url": "https://u%40:%2F@p:80"},
        ),
        ({"axiosConfig": {"proxy": False}}, {"proxy_url": ""}),
        ({"axiosConfig": {"timeout": 1000}}, {"timeout_s": 1.0}),
        ({"axiosInstance": None, "axiosRetryConfig": {}}, {}),
        ({"flush_at": 5, "when_full": "block"}, {"flush_at": 5, "when_full": "block"}),
    ],
)
def test_an_option_becomes_a_setting(options: dict[str, Any], settings: dict[str, Any]) -> None:
    """Values are converted as leniently as in the Node SDK. Names of rudderpipe's settings are allowed too."""
    assert node_names.settings_of(options) == settings


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"flushAtt": 5}, "setting flushAtt: is unknown; the Node SDK has axiosConfig, dataPlaneUrl"),
        ({"flushAt": "many"}, "setting flushAt: must be a number"),
        ({"flushAt": math.nan}, "setting flushAt: must be a number"),
        ({"timeout": "soon"}, "setting timeout: must be milliseconds"),
        ({"timeout": True}, "setting timeout: must be milliseconds"),
        ({"logLevel": "loud"}, "setting logLevel: must be one of log, debug"),
        ({"axiosInstance": object()}, "setting axiosInstance: has no meaning without axios; give proxy_url"),
        ({"axiosConfig": {"headers": {}}}, "setting axiosConfig.headers: has no meaning"),
        ({"axiosConfig": {"proxy": {"port": 1}}}, "setting axiosConfig.proxy: must have host"),
    ],
)
def test_an_option_without_meaning_is_an_error_that_names_it(options: dict[str, Any], text: str) -> None:
    """The error has the name that the caller wrote."""
    with pytest.raises(SettingsError) as caught:
        node_names.settings_of(options)
    assert str(caught.value).startswith(text)


def test_the_options_of_the_queue_become_settings() -> None:
    """The defaults are those of ``createPersistenceQueue``."""
    redis = {"host": "h", "port": 6380, "db": 1, "password": "p"}
    assert node_names.queue_settings_of({"redisOpts": redis}) == {
        "redis": redis,
        "is_multi_processor": False,
        "max_attempts": 10,
    }
    assert node_names.queue_settings_of(
        {
            "redisOpts": redis,
            "queueName": "q",
            "prefix": "mine",
            "isMultiProcessor": True,
            "jobOpts": {"maxAttempts": 3},
        }
    ) == {"redis": redis, "queue_name": "q", "prefix": "mine", "is_multi_processor": True, "max_attempts": 3}
    for options, name in (
        ({}, "redisOpts"),
        ({"redisOpts": redis, "name": "q"}, "name"),
        ({"redisOpts": redis, "jobOpts": {"attempts": 3}}, "jobOpts.attempts"),
        ({"redisOpts": redis, "JobOpts": {"attempts": 3}}, "JobOpts.attempts"),
        (None, "redisOpts"),
    ):
        with pytest.raises(SettingsError, match=f"setting {name}: is"):
            node_names.queue_settings_of(options)
    no_mapping: Any
    for no_mapping, name in (("redis://localhost", "queueOpts"), ({"redisOpts": redis, "jobOpts": 10}, "jobOpts")):
        with pytest.raises(SettingsError, match=f"setting {name}: must be a mapping"):
            node_names.queue_settings_of(no_mapping)


def test_empty_redis_options_mean_the_local_redis() -> None:
    """The Node SDK passes them to Bull, which then uses the usual host and port."""
    client = Client("KEY", URL, enable=False)

    client.createPersistenceQueue({"redisOpts": {}})

    assert client.settings.redis_address.place == "localhost:6379/0"


@pytest.mark.parametrize("prefix", [None, "", "rudder", "mine", "{mine}", "{mine", "mine}", "{a}b", "a{b}"])
def test_a_prefix_means_the_keys_that_it_means_in_node(prefix: str | None) -> None:
    """The Node SDK puts braces around every prefix, also around one that has braces."""
    chosen = node_names.queue_settings_of({"redisOpts": {}, "prefix": prefix}).get("prefix", Settings().prefix)

    assert Keys(chosen, "q").id == f"{{{prefix or 'rudder'}}}:q:id"


def test_the_attempts_may_be_named_as_in_rudderstacks_documentation() -> None:
    """Its tables have ``JobOpts``, and the Node SDK's code has ``jobOpts``, which takes precedence."""
    small, capital = {"maxAttempts": 3}, {"maxAttempts": 4}
    for options, attempts in (
        ({"JobOpts": capital}, 4),
        ({"jobOpts": small, "JobOpts": capital}, 3),
        ({"jobOpts": None, "JobOpts": capital}, 4),
        ({"JobOpts": None}, 10),
    ):
        assert node_names.queue_settings_of({"redisOpts": {}, **options})["max_attempts"] == attempts


@pytest.mark.parametrize("options", [None, {}, {"redisOpts": {}, "name": "q"}, {"redisOpts": {"port": "x"}}, 7])
def test_wrong_queue_options_reach_the_callback_and_the_log(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Events go on without the queue. Without a callback the call raises, because the application must hear of it."""
    client = Client("KEY", URL, enable=False)
    said: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    client.createPersistenceQueue(options, said.put)

    error = said.get(timeout=30)
    assert isinstance(error, SettingsError)
    assert [record.getMessage() for record in caplog.records] == [
        f"no queue was created, because its options are wrong: {error}"
    ]
    with pytest.raises(SettingsError):
        client.createPersistenceQueue(options)


@pytest.mark.parametrize("name", ["redisOpts", "queueName", "isMultiProcessor", "jobOpts", "JobOpts"])
def test_an_option_of_the_queue_is_no_option_of_the_client(name: str) -> None:
    """RudderStack's documentation has them in one table, so the error says where each belongs."""
    with pytest.raises(SettingsError, match=f"{name}: is an option of createPersistenceQueue"):
        Client("KEY", URL, {name: {}})


def test_a_client_takes_the_options_as_second_or_third_argument() -> None:
    """The second argument is the place in Node, and the third one is the place in Python. Arguments by name win."""
    options = {"flushAt": 5, "flushInterval": 1000, "enable": False}
    for ours in (
        Client("KEY", URL, options),
        Client("KEY", {**options, "dataPlaneUrl": URL}),
        Client("KEY", URL, {**options, "dataPlaneUrl": "http://other"}),
    ):
        chosen = ours.settings
        assert (chosen.data_plane_url, chosen.flush_at, chosen.flush_interval_ms, chosen.enable) == (
            URL,
            5,
            1000,
            False,
        )
    assert Client("KEY", {"enable": False}).settings.data_plane_url == node_names.HOSTED
