"""Make docs/web.png anew: ``python -m native_tests.web_picture``, with a real pipe under load for some minutes."""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from native_tests.browser import Browser
from native_tests.processes import Processes
from native_tests.web_pages import WebPage
from rudderpipe.testing.data_plane import DataPlaneServer, Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

PICTURE = Path(__file__).parent.parent / "docs" / "web.png"
LONG_S = 400.0
"""How long the pipe runs before the picture, so that the curves have something to show."""
PRODUCERS = 4
SHOP = """
import itertools, math, random, time
import rudderpipe

client = rudderpipe.Client()
for number in itertools.count():
    for _ in range(int(40 + 25 * math.sin(time.time() / 25) + random.random() * 15)):
        client.track(f"user-{number % 500}", "Item Viewed", {"item": number})
    time.sleep(0.1)
"""


def main(path: str = str(PICTURE), long_s: str = str(LONG_S), scheme: str = "light", width: str = "1280") -> None:
    """Run a pipe with the page, and take the picture."""
    with tempfile.TemporaryDirectory(prefix="rp-") as folder, DataPlaneServer(0, Misbehaviour(delay_ms=35)) as plane:
        directory = Path(folder)
        serving = threading.Thread(target=plane.serve_forever, args=(0.01,))
        serving.start()
        processes = Processes(directory, plane)
        processes.explicit |= {"pipe": "shop", "max_jobs_per_request": 50, "max_queue_bytes": 1 << 30}
        browser = Browser(directory)
        try:
            with RedisServer(directory) as redis_server:
                web = WebPage(processes, redis_server, directory)
                web.serve()
                for _ in range(PRODUCERS):
                    processes.start("-c", SHOP)
                browser.open(web.url, int(width), scheme)
                threading.Event().wait(float(long_s))
                browser.says("#verdict", "All is well")
                last = "document.querySelector('#sparklines').closest('section').getBoundingClientRect().bottom"
                height = browser.call("evaluate", last) + 10
                browser.call(
                    "screenshot", {"path": path, "clip": {"x": 0, "y": 0, "width": int(width), "height": height}}
                )
        finally:
            browser.end()
            processes.end()
            plane.shutdown()
            serving.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
