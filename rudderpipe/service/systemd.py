"""Tells the service manager how we are, in systemd's sd_notify protocol: one datagram for each message."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping

from rudderpipe import log_text
from rudderpipe.process.spawn import SERVICE_MANAGER_VARIABLES

SEND_TIMEOUT_S = 1.0
logger = log_text.logger("rudderpipe.service.systemd")


def send_datagram(address: bytes, message: bytes) -> None:
    """One datagram from a socket of its own, so that nothing is held over a fork or a closing of all descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:  # Python's are close-on-exec
        sender.settimeout(SEND_TIMEOUT_S)  # a manager that does not read must not hold us up
        sender.sendto(message, address)


class Notify:
    """Does nothing without a socket, and never raises: a socket that does not work is logged once."""

    def __init__(
        self,
        address: str | None = None,
        watchdog_s: float | None = None,
        *,
        send: Callable[[bytes, bytes], None] = send_datagram,
    ) -> None:
        self._address = os.fsencode(address) if address else None
        if self._address and self._address.startswith(b"@"):
            self._address = b"\0" + self._address[1:]  # Linux's abstract names have no file
        self._watchdog_s = watchdog_s if self._address else None
        self._send = send
        self._pinged_at_s = float("-inf")
        self._complained = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notify:
        """What the service manager asked of this process; the variables are taken out of ``environment``.

        They are for this process alone: a sender that inherited its flusher's would speak for it. Only for programs
        of our own, never in an application's process.
        """
        address, watchdog_usec, watchdog_pid = (environment.pop(name, None) for name in SERVICE_MANAGER_VARIABLES)
        if watchdog_pid not in (None, "", str(os.getpid())):
            watchdog_usec = None  # the watchdog of the process that started us
        watchdog_s = None
        if address and watchdog_usec:
            if watchdog_usec.isascii() and watchdog_usec.isdecimal() and int(watchdog_usec):
                watchdog_s = int(watchdog_usec) / 2e6
            else:
                logger.warning("WATCHDOG_USEC is no number of microseconds, the watchdog is not served")
        return cls(address, watchdog_s)

    @property
    def watchdog_s(self) -> float | None:
        """Seconds between two calls of ``watchdog``, half of what the manager allows; None when it has no watchdog."""
        return self._watchdog_s

    def ready(self, status: str) -> None:
        """We serve from now on."""
        self._tell("READY=1", status)

    def status(self, text: str) -> None:
        """One line for people, in what ``systemctl status`` shows."""
        self._tell(status=text)

    def stopping(self) -> None:
        """We were told to stop, and drain."""
        self._tell("STOPPING=1")

    def watchdog(self) -> None:
        """We are well; without this call within twice ``watchdog_s`` the manager kills us and starts another."""
        if self._watchdog_s is not None:
            self._tell("WATCHDOG=1")

    def beat(self, now_s: float) -> None:
        """Call ``watchdog`` when it is due; for loops that turn more often than that."""
        if self._watchdog_s is not None and now_s - self._pinged_at_s >= self._watchdog_s:
            self._pinged_at_s = now_s
            self.watchdog()

    def _tell(self, *assignments: str, status: str | None = None) -> None:
        if self._address is None:
            return
        lines = list(assignments)
        if status is not None:  # a line break would begin another assignment
            lines.append("STATUS=" + log_text.one_line(status))
        try:
            self._send(self._address, "\n".join(lines).encode(errors="replace"))
        except (OSError, ValueError) as error:  # ValueError: an address that cannot be one
            if not self._complained:
                self._complained = True
                logger.warning("the service manager cannot be told: %s", error)
