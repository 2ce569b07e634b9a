"""A Chromium without a window, and the page that it shows to a test."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from native_tests.node_programs import NodeProgram
from native_tests.processes import free_port, wait_until

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"desktop": 1280, "phone": 360}


def chromium() -> str:
    """Return the path of the browser, or skip the test."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("Chromium is not on this machine; Debian has it in the package chromium")
    return found


class Browser:
    """One Chromium; each test opens a page of its own in it."""

    def __init__(self, directory: Path) -> None:
        given = {"chromium": chromium(), "port": free_port()}
        self._program = NodeProgram("browser", directory / "none", directory / "browser.log", given)
        self._program.ready()

    def open(self, url: str, width: int = 1280, scheme: str = "light", *, is_plain: bool = False) -> None:
        """Show an address in a new page without cookies, in place of the last one.

        A plain page is a tab that can be hidden; it has the size and colours of Chromium itself.
        """
        size = {"width": width, "height": 900}
        self._program.ask(open={"url": url, "plain": is_plain, "viewport": size, "colorScheme": scheme})

    def call(self, method: str, *arguments: Any) -> Any:
        """Call one of Playwright's methods of a page, such as ``click``; it waits for the element."""
        return self._program.ask(call=method, args=arguments)

    def text(self, selector: str) -> str:
        """Return the text of an element as a person sees it."""
        return str(self.call("innerText", selector))

    def sees(self, selector: str) -> bool:
        """Return True if a person sees such an element now."""
        return bool(self.call("isVisible", selector))

    def wait(self, expression: str) -> None:
        """Wait until an expression is true within the page."""
        wait_until(lambda: self.call("evaluate", f"Boolean({expression})"), describe=lambda: self.text("body"))

    def says(self, selector: str, text: str) -> None:
        """Wait until an element shows a text."""
        wait_until(
            lambda: self.sees(selector) and text in self.text(selector), describe=lambda: (text, self.text("body"))
        )

    def asked(self, request: str) -> int:
        """Return how often the page made a request, such as ``GET /api/flow``."""
        return int(self.call("asked").count(request))

    def faults(self) -> list[Any]:
        """Return what axe-core finds to be no good for people with disabilities."""
        return list(self._program.ask(axe=True))

    def errors(self) -> list[str]:
        """Return what the page wrote to its console as an error, also what its security policy forbade."""
        return list(self.call("errors"))

    def cover(self) -> None:
        """Bring another tab to the front."""
        self._program.ask(cover=True)

    def end(self) -> None:
        """Kill the browser with its processes."""
        assert self._program.process.stdin is not None
        self._program.process.stdin.close()
        self._program.process.wait()
        self._program.kill()
