"""Notifications to the service manager in systemd's sd_notify protocol, one datagram for each message."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping

from rudderpipe import log_text
from rudderpipe.process.clock import Every
from rudderpipe.process.spawn import SERVICE_MANAGER_VARIABLES

SEND_TIMEOUT_S = 1.0
logger = log_text.logger("rudderpipe.service.systemd")


def send_datagram(address: bytes, message: bytes) -> None:
    """Send one datagram from a new socket, so that no socket is open over a fork or a close of all descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:  # Python's sockets are close-on-exec
        sender.settimeout(SEND_TIMEOUT_S)  # a manager that does not read must not block this process
        sender.sendto(message, address)


class Notify:
    """The notifications of one process. Without a socket they do nothing. A socket that fails is logged once.

    No method raises. ``watchdog_s`` is half of the silence that the manager allows; None without a watchdog.
    """

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        *,
        send: Callable[[bytes, bytes], None] = send_datagram,
    ) -> None:
        self._address = os.fsencode(address) if address else None
        if self._address and self._address.startswith(b"@"):
            self._address = b"\0" + self._address[1:]  # a Linux abstract name, which has no file
        self._watchdog = Every(watchdog_s) if self._address and watchdog_s is not None else None
        self._send = send
        self._complained = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notify:
        """Return the notifications that the service manager wants from this process.

        The variables are removed from ``environment``, because a sender that inherits them would report in the name of
        its flusher. Only for rudderpipe's own programs, never in an application's process.
        """
        address, watchdog_usec, watchdog_pid = (environment.pop(name, None) for name in SERVICE_MANAGER_VARIABLES)
        if watchdog_pid not in (None, "", str(os.getpid())):
            watchdog_usec = None  # this is the watchdog of the parent process
        watchdog_s = None
        if address and watchdog_usec:
            if watchdog_usec.isascii() and watchdog_usec.isdecimal() and int(watchdog_usec):
                watchdog_s = int(watchdog_usec) / 2e6
            else:
                logger.warning("the watchdog is not served, correct WATCHDOG_USEC to a number of microseconds")
        return cls(address, watchdog_s)

    def ready(self, status: str) -> None:
        """Report that the process serves from now on."""
        self._tell("READY=1", "STATUS=" + log_text.one_line(status))  # a line break would begin another assignment

    def stopping(self) -> None:
        """Report that the process stops and drains."""
        self._tell("STOPPING=1")

    def beat(self, now_s: float) -> None:
        """Report that the process is alive, if that is due.

        Without a call in twice ``watchdog_s``, the manager restarts the process.
        """
        if self._watchdog is not None and self._watchdog.is_due(now_s):
            self._tell("WATCHDOG=1")

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            self._send(self._address, "\n".join(assignments).encode(errors="replace"))
        except (OSError, ValueError) as error:  # ValueError for text that cannot be an address
            if not self._complained:
                self._complained = True
                logger.warning("cannot notify the service manager, events are not affected error=%s", error)
