"""The checks of the data plane: whether it takes our requests, and whether it is fast enough."""

from __future__ import annotations

import socket
import ssl
import time
from urllib.parse import urlsplit

import msgspec

from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.observe.doctor.redis_server import days_left
from rudderpipe.settings import Settings

CONNECT_S = 1.0
ANSWER_S = 1.5
EMPTY = b'{"batch":[]}'
EMPTY_TEXT = "empty batch"
"""What rudder-server says of a batch without events, after it has looked at the write key."""
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")
"""What OpenSSL says of a server that responds without TLS."""
BUSY = 0.7
EVENT_BYTES = 600


@check(24, "data plane", "plane")
def data_plane(pipe: Examination) -> Result:
    """Check that the data plane can be reached and takes our write key, by a request without events."""
    settings = pipe.settings
    settings.require("write_key", "data_plane_url")
    short = msgspec.structs.replace(
        settings,
        connect_timeout_s=min(CONNECT_S, settings.connect_timeout_s),
        timeout_s=min(ANSWER_S, settings.timeout_s),
        gzip=False,
    )
    plane = DataPlane(short)
    try:
        plane.post(EMPTY, settings.current_write_key)  # the first one also opens the connection
        began_s = time.perf_counter()
        outcome = plane.post(EMPTY, settings.current_write_key)
        took_s = time.perf_counter() - began_s
    finally:
        plane.close()
    if outcome.status:
        pipe.plane_latency_s = took_s
    proxy = ", through a proxy" if settings.proxy_url else ""
    found = [_meaning(outcome), *_certificate(pipe)]
    return worst(found, f"{settings.endpoint} responds in {took_s * 1000:.0f} ms{proxy}")


def _meaning(outcome: Outcome) -> Result:
    said, status = outcome.reason, outcome.status
    if outcome.kind == "delivered" or (status == 400 and EMPTY_TEXT in said.lower()):
        return ok("")
    if status == 401:
        return fail(said, "correct write_key: it must be the one of the source in RudderStack")
    if status == 404:
        return fail(said, "enable the source in RudderStack, or correct data_plane_url and path")
    if 300 <= status < 400:
        return fail(said, "correct data_plane_url to where the redirect points")
    if outcome.kind == "blocked":
        return fail(said, "mend it on this host: ca_file, proxy_url and its password, limits of files and memory")
    if status == 429 or status >= 500:
        return fail(said, "look at the status page of the data plane; events wait meanwhile")
    if not status:
        return fail(said, f"{_of_connection(said)}")
    return fail(said, "look for a proxy or a firewall between: no data plane responds like this")


def _of_connection(reason: str) -> str:
    lower = reason.lower()
    if any(each in reason for each in NO_TLS):
        return "correct the port in data_plane_url, or write http://, because this server does not use TLS"
    if "certificate" in lower or "ssl" in lower or "tls" in lower:
        return "correct ca_file, the clock of this host, or the certificate of the data plane"
    if "refused" in lower:
        return "correct host and port in data_plane_url, or start the data plane"
    if "name" in lower or "resolv" in lower or "address" in lower:
        return "correct the host in data_plane_url, or the DNS of this host"
    if "closed" in lower:
        return "correct the port in data_plane_url, or write https://; look for a firewall between"
    return "look for a firewall between this host and the data plane; set proxy_url if a proxy is needed"


def _certificate(pipe: Examination) -> list[Result]:
    """Return a warning if the data plane's certificate ends soon. With a proxy it is not looked at."""
    url = urlsplit(pipe.settings.endpoint)
    if url.scheme != "https" or pipe.settings.proxy_url:
        return []
    try:
        context = ssl.create_default_context(cafile=pipe.settings.ca_file)
        with (
            socket.create_connection((url.hostname or "", url.port or 443), CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=url.hostname) as link,
        ):
            found = link.getpeercert() or {}
    except (OSError, ValueError):
        return []  # the request has said what is wrong
    ends_s = ssl.cert_time_to_seconds(str(found["notAfter"]))
    return days_left((ends_s - pipe.clock.time_ms() / 1000) / 86_400, "the data plane")


@check(25, "latency", "plane")
def latency(pipe: Examination) -> Result:
    """Check that the requests that can be under way carry the present rate of events, at the measured latency."""
    if pipe.plane_latency_s is None:
        raise Skipped("the data plane did not respond, or was not asked")
    most = capacity_per_s(pipe.settings, pipe.plane_latency_s)
    if pipe.rate_per_s > most * BUSY:
        said = f"{pipe.rate_per_s:,.0f} events/s are accepted, and at most {most:,.0f} can be delivered"
        return warn(said, "raise max_request_bytes, max_jobs_per_request or lanes; docs/operations.md, larger requests")
    return ok(f"{pipe.rate_per_s:,.0f} events/s are accepted, and at most {most:,.0f} can be delivered")


def capacity_per_s(settings: Settings, latency_s: float) -> float:
    """Return how many events a second the requests can carry at most, where the latency alone bounds them."""
    events = min(settings.max_jobs_per_request * settings.flush_at, settings.lane_bytes / EVENT_BYTES)
    return settings.lanes_in_use * events / max(latency_s, 1e-4)
