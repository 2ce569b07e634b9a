"""Proxies that environment variables name."""

from __future__ import annotations

from typing import Any

import pytest

from rudderpipe import settings
from rudderpipe.settings.proxies import from_environment

HTTP, HTTPS = "http://plane.example.com:8080", "https://plane.example.com"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        (HTTP, {}, None),
        (HTTP, {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        (HTTP, {"HTTPS_PROXY": "http://p:1"}, None),
        (HTTPS, {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://q:2"}, "http://p:1"),
        (HTTPS, {"HTTP_PROXY": "http://q:2"}, None),
        (HTTPS, {"https_proxy": "http://user:pass@p:1"}, "http://user:pass@p:1"),
        (HTTPS, {"ALL_PROXY": "https://p:1"}, "https://p:1"),
        (HTTP, {"all_proxy": "https://p:1"}, "https://p:1"),
        (HTTPS, {"HTTPS_PROXY": "p:3128"}, "http://p:3128"),
        (HTTPS, {"HTTPS_PROXY": " http://p:1 "}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "http://q:2"),
        (HTTPS, {"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None),
        (HTTPS, {"HTTPS_PROXY": "", "ALL_PROXY": "http://p:1"}, "http://p:1"),
        (HTTP, {"HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"}, None),
        (HTTP, {"http_proxy": "http://p:1", "HTTP_PROXY": "http://evil:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        (HTTPS, {"HTTPS_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http://p:1"),
        ("http://[", {"HTTP_PROXY": "http://p:1"}, None),
    ],
)
def test_proxy_variables_mean_the_same_as_in_requests(url: str, environment: dict[str, str], proxy: str | None) -> None:
    """A lower-case name wins, and an empty value means no proxy. A CGI request can set ``HTTP_PROXY``, so that one does
    not count there."""
    assert from_environment(environment, url) == proxy


@pytest.mark.parametrize(
    ("no_proxy", "url", "excepted"),
    [
        ("plane.example.com", HTTPS, True),
        ("example.com", HTTPS, True),
        (".example.com", HTTPS, True),
        ("*.example.com", HTTPS, True),
        ("EXAMPLE.com", HTTPS, True),
        ("localhost, example.com ,x", HTTPS, True),
        ("*", HTTPS, True),
        ("xample.com", HTTPS, False),
        ("other.example.com", HTTPS, False),
        ("plane.example.com:8080", HTTP, True),
        ("plane.example.com:8081", HTTP, False),
        ("plane.example.com:443", HTTPS, True),
        ("", HTTPS, False),
        (",", HTTPS, False),
        (".", HTTPS, False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("fe80::/10", "https://[fe80::1]", True),
        ("::1", "https://[::1]:8443", True),
        ("[::1]", "https://[::1]", True),
        ("10.0.0.0/8", HTTPS, False),
        ("10.0.0.0/99", "https://10.1.2.3", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_excepts_hosts_domains_ports_and_networks(name: str, no_proxy: str, url: str, excepted: bool) -> None:
    """A domain matches only whole labels, so ``xample.com`` does not match ``example.com``."""
    found = from_environment({"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1", name: no_proxy}, url)
    assert found == (None if excepted else "http://p:1")


@pytest.mark.parametrize("text", ["socks5://user:pass@p:1", "http://", "http://p:port", "http://p q", "ftp://p"])
def test_a_proxy_of_another_kind_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """A client must not fail because of a variable for other programs. The warning does not show the value."""
    loaded = settings.load({"data_plane_url": HTTPS}, environment={"ALL_PROXY": text})
    assert loaded.proxy_url is None
    (line,) = caplog.messages
    assert line.startswith("ALL_PROXY names no http or https proxy")
    assert "pass" not in line


@pytest.mark.parametrize(
    ("explicit", "variables", "proxy"),
    [
        ({}, {}, "http://environment:1"),
        ({"proxy_url": None}, {}, "http://environment:1"),
        ({"proxy_url": "http://explicit:1"}, {}, "http://explicit:1"),
        ({"proxy_url": ""}, {}, ""),
        ({}, {"RUDDERPIPE_PROXY_URL": ""}, ""),
        ({}, {"RUDDERPIPE_PROXY_URL": "http://own:1"}, "http://own:1"),
    ],
)
def test_proxy_url_wins_over_the_proxy_variables(
    explicit: dict[str, Any], variables: dict[str, str], proxy: str
) -> None:
    """The empty ``proxy_url`` wins too, and means no proxy."""
    environment = {"HTTPS_PROXY": "http://environment:1", **variables}
    assert settings.load({"data_plane_url": HTTPS, **explicit}, environment=environment).proxy_url == proxy
