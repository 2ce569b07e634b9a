"""The POST itself."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from rudderpipe.delivery import outcome, request
from rudderpipe.delivery.outcome import Outcome
from rudderpipe.settings import Settings
from rudderpipe.version import USER_AGENT

PATH = "/v1/batch"
CONNECT_TIMEOUT_S = 5.0


class DataPlane:
    """One data plane, over one kept connection."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.data_plane_url.rstrip("/") + PATH
        self._gzip = settings.gzip
        self._timeout_s = settings.timeout_s
        options: dict[str, Any] = {"ca_certs": settings.ca_file} if settings.ca_file else {}
        if settings.proxy_url:
            self._pool: urllib3.PoolManager = urllib3.ProxyManager(settings.proxy_url, **options)
        else:
            self._pool = urllib3.PoolManager(**options)

    def post(self, body: bytes, write_key: str, timeout_s: float | None = None) -> Outcome:
        """One attempt. Never raises for what the network or the server does."""
        headers = {
            "authorization": f"Basic {b64encode(f'{write_key}:'.encode()).decode()}",
            "content-type": "application/json",
            "user-agent": USER_AGENT,
        }
        if self._gzip:
            headers["content-encoding"] = "gzip"
            body = request.gzip(body)
        read_s = timeout_s or self._timeout_s
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, read_s), read=read_s),
                retries=False,
                redirect=False,
            )
        except HTTPError as error:
            return outcome.of_failure(_reason(error))
        return outcome.of_answer(answer.status, answer.data)

    def abort(self) -> None:
        """From any thread: end the attempt under way, and make no other."""

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()


def _reason(error: HTTPError) -> str:
    cause = error.__cause__ or error.__context__
    text = f"{type(error).__name__}"
    return f"{text}: {cause}" if isinstance(cause, OSError) else text
