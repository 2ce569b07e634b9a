"""Exceptions that the application's signal handlers raise in the middle of a call, such as a time limit of a task."""

from __future__ import annotations

from types import FrameType

_OURS = __name__.partition(".")[0]


def let_through(error: BaseException) -> None:
    """Raise the error again, or the error that it came from, if a signal handler of the application raised it.

    A handler that raises wants to end what runs, whatever that is: Celery's soft time limit, or an alarm. Without such
    an origin the error is the event's or the host's, and the caller handles it.
    """
    found: BaseException | None = error
    while found is not None:
        traceback = found.__traceback__
        while traceback is not None:
            if _is_handler(traceback.tb_frame):
                raise found
            traceback = traceback.tb_next
        found = found.__cause__


def _is_handler(frame: FrameType) -> bool:
    """Return whether a frame was given its caller's frame as an argument, as only signal handlers are."""
    interrupted = frame.f_back
    # Why: reading the variables of a frame makes a copy of them that lives as long as the frame. A copy in one of our
    # frames would keep the error that it is about, and the memory of the ring.
    if interrupted is None or frame.f_globals.get("__name__", "").partition(".")[0] == _OURS:
        return False
    return any(
        value is interrupted or (type(value) is tuple and any(each is interrupted for each in value))  # *arguments
        for value in frame.f_locals.values()
    )
