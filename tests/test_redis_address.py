"""The address of Redis as a URL or a mapping, and errors in it, which never show a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rudderpipe import settings as settings_module
from rudderpipe.errors import SettingsError
from rudderpipe.queue.keys import Keys
from rudderpipe.settings.redis_url import RedisAddress, from_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress(host="h")),
        ("redis://", RedisAddress()),
        ("valkey://h:7/2", RedisAddress(host="h", port=7, db=2)),
        ("redis://:p%40ss@h/1", RedisAddress(host="h", password="p@ss", db=1)),
        ("rediss://u:p@[::1]:7?db=3", RedisAddress(host="::1", port=7, username="u", password="p", db=3, ssl=True)),
        (
            "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_file=/c.pem&ssl_check_hostname=false",
            RedisAddress(host="h", ssl=True, ssl_ca_file="/ca.pem", ssl_cert_file="/c.pem", ssl_check_hostname=False),
        ),
        ("unix:///run/redis.sock?db=4", RedisAddress(unix_socket_path="/run/redis.sock", db=4)),
        ("unix://u:p@/r%20s", RedisAddress(unix_socket_path="/r s", username="u", password="p")),
        (
            "redis+sentinel://u:p@a:1,b/main/2?sentinel_password=s",
            RedisAddress(
                sentinels=("a:1", "b"), service_name="main", db=2, username="u", password="p", sentinel_password="s"
            ),
        ),
        ("rediss+cluster://a:1,b:2", RedisAddress(cluster_nodes=("a:1", "b:2"), ssl=True)),
    ],
)
def test_every_form_of_url_gives_an_address(url: str, address: RedisAddress) -> None:
    """The address is shown and names the pipe, so it must hold neither user nor password."""
    found = from_url(url)

    assert found == address
    for secret in (found.username, found.password, found.sentinel_password):
        assert secret is None or f"{secret}@" not in found.place + repr(found)


@pytest.mark.parametrize(
    ("redis", "reason"),
    [
        ("http://:secret@h", "must start with redis://"),
        ("redis+magic://:secret@h", "must start with redis://"),
        ("redis://:secret@h/zero", "number of a database"),
        ("redis://:secret@h/0/1", "number of a database"),
        ("redis://:secret@h?db=x", "db"),
        ("redis://:secret@h:port", "host:port"),
        ("redis://:secret@a,b", r"several hosts; use redis\+sentinel.*or blanks between several URLs"),
        ("redis://:secret@h?ssl_cert_reqs=none", "query may contain only"),
        ("rediss://:secret@h?ssl_ca_file=ca.pem", "absolute path"),
        ("redis://:secret@h?ssl_ca_file=/ca.pem", "ssl is off"),
        ("redis+sentinel://:secret@h:1", "service"),
        ("redis+cluster://:secret@h:1/2", "only database 0"),
        ("unix://:secret@", "must name a socket"),
        ("redis://:secret@[::1", "is not a URL"),
        ({"password": "secret", "sentinels": ["a:1"]}, "both or neither"),
        ({"password": "secret", "cluster_nodes": ["a:1"], "unix_socket_path": "/s"}, "one of"),
        ({"password": "secret", "cluster_nodes": ["u:secret@a:1"]}, "not host:port"),
        ({"password": "secret", "ssl": True, "unix_socket_path": "/s"}, "ssl cannot be used with unix_socket_path"),
        ({"password": "secret", "hots": "h"}, "hots"),
    ],
)
def test_an_error_in_the_address_names_the_setting_and_no_secret(redis: Any, reason: str) -> None:
    """An operator must see what is wrong."""
    with pytest.raises(SettingsError, match=reason) as caught:
        settings_module.load({"redis": redis}, environment={})

    assert "redis" in caught.value.field
    assert "secret" not in str(caught.value)


def test_a_relative_file_of_a_mapping_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An autostarted process runs in another directory."""
    monkeypatch.chdir(tmp_path)

    settings = settings_module.load({"redis": {"ssl": True, "ssl_ca_file": "ca.pem"}}, environment={})

    assert settings.redis_address.ssl_ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(("prefix", "base"), [("x", "{x}:q:"), ("{x}", "{x}:q:"), ("a{b}c", "{a{b}c}:q:")])
def test_a_prefix_is_wrapped_in_braces_once(prefix: str, base: str) -> None:
    """The Node SDK wraps every prefix. A prefix that already stands in braces keeps them."""
    assert Keys(prefix, "q").base == base
