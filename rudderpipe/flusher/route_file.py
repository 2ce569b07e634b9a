"""The route that the flusher of a ring used last, in a file beside the ring, because Redis may forget the route.

Queues that only this route names may have events of the ring. A flusher that starts without it would add these again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rudderpipe import log_text
from rudderpipe.process.runtime_dir import private
from rudderpipe.queue.keys import Keys
from rudderpipe.ring.ring import Ring
from rudderpipe.settings import Settings

if TYPE_CHECKING:
    from rudderpipe.queue.route import Route

SUFFIX = ".route"

logger = log_text.logger("rudderpipe.flusher")


class RouteFile:
    """The file of one ring. What another ring or other settings have left there is ignored."""

    def __init__(self, ring: Ring, settings: Settings) -> None:
        self._path = path_of(ring.locks.path)
        self._settings = settings
        home = Keys(settings.prefix, settings.queue_name).base
        self._owner = f"{ring.segment.epoch:016x} {settings.redis_place} {home}"

    def read(self) -> Route | None:
        """Return the route; None without one, or if it cannot be read."""
        from rudderpipe.queue import route

        try:
            owner, _, text = self._path.read_text().partition("\n")
            return route.of_text(text, self._settings) if owner == self._owner and text else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            said = "the route beside the ring cannot be read, redis alone knows it error=%s path=%s"
            logger.warning(said, error, self._path)
            return None

    def write(self, used: Route) -> None:
        """Store the route. It is forgotten if that fails."""
        try:
            with open(self._path, "w", opener=private) as file:  # Path.open takes no opener
                file.write(f"{self._owner}\n{used.text}")
        except OSError as error:
            said = "the route cannot be stored beside the ring, redis alone knows it error=%s path=%s"
            logger.warning(said, error.strerror, self._path)

    def remove(self) -> None:
        """Remove the file, because the ring has ended."""
        self._path.unlink(missing_ok=True)


def path_of(lock_file: Path) -> Path:
    """Return the path of the file of the ring with this lock file."""
    return lock_file.with_suffix(SUFFIX)
