"""The pipes of this process: clients with the same settings share one."""

from __future__ import annotations

from weakref import WeakValueDictionary

from rudderpipe import log_text
from rudderpipe.process.clock import Clock
from rudderpipe.ring import served_settings
from rudderpipe.settings import Settings
from rudderpipe.transports.ring import Pipe

logger = log_text.logger()
_open: WeakValueDictionary[Settings, Pipe] = WeakValueDictionary()
_users: dict[Settings, int] = {}


def shared(settings: Settings, clock: Clock) -> Pipe:
    """The pipe of these settings, made if need be; whoever asks for it shuts it once, and the last one closes it.

    A second one of the same name with other settings of ring or flusher is warned about: both have one.
    """
    pipe = _open.get(settings)
    if pipe is None:
        _warn_of_another(settings)
        pipe = _open[settings] = Pipe(settings, clock, lambda: _is_last(settings))
        _users[settings] = 0
    _users[settings] += 1
    return pipe


def _is_last(settings: Settings) -> bool:
    _users[settings] = _users.get(settings, 1) - 1
    if _users[settings] > 0:
        return False
    _open.pop(settings, None)
    return True


def _warn_of_another(settings: Settings) -> None:
    for other in [pipe.settings for pipe in _open.values()]:
        if (other.pipe_name, other.runtime_dir) == (settings.pipe_name, settings.runtime_dir):
            names = (*served_settings.NAMES, "ring_bytes", "max_internal_queue_size")
            differing = [name for name in names if getattr(other, name) != getattr(settings, name)]
            if differing:
                logger.warning(
                    "two clients of one write key differ in %s: there is one ring and one flusher for both; give them "
                    "the same, or a pipe each",
                    ", ".join(differing),
                )
            return
