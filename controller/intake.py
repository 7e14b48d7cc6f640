"""What becomes of a frame of the stream: facts are handed on, what cannot be read is counted and told.

Events are hints, and one lost costs latency only: it makes a snapshot due, and the stream goes on.  Nobody
who can write to the stream may use that against us, so what one frame and many frames can cost is bounded:

  * A frame is read up to its first piece that cannot be read.  Those before it count; it is counted once,
    makes one snapshot due, and the rest of the frame is passed over.
  * Unreadable events of one kind (reason and event type) are logged when they are the 1st, 10th, 100th, and
    so on.  The counters stay exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from mooring.cext import Frame
from mooring.controller.events import KNOWN, Event, EventUnreadable, decode, objects

log = structlog.get_logger()

_UNKNOWN = "unknown"  # one name for all types we have none for: a sender may make up any number


class Intake:
    """Hands facts on; counts and logs what cannot be read, and never raises for it."""

    def __init__(self, apply: Callable[[Event], None], lost: Callable[[str], None]) -> None:
        """`apply` takes each fact; `lost` is told the reason, once, whenever content of a frame was lost."""
        self._apply = apply
        self._lost = lost
        self.decoded: Counter[str] = Counter()  # by event type
        self.ignored: Counter[str] = Counter()  # by event type, "unknown" for those we have no name for
        self.unreadable: Counter[str] = Counter()  # frames by reason
        self._alike: Counter[tuple[str, str]] = Counter()  # the same by reason and event type

    def take(self, frame: Frame) -> None:
        """Apply every fact in the frame that stands before the first piece which cannot be read."""
        try:
            for part in objects(frame):
                self._take_object(part)
        except EventUnreadable as error:
            self._note(error)
            self._lost(error.reason)

    def _take_object(self, part: Frame) -> None:
        event = decode(part)
        if event is not None:
            self.decoded[part.event] += 1
            self._apply(event)
        else:
            self.ignored[_name_of(part.event)] += 1

    def _note(self, error: EventUnreadable) -> None:
        self.unreadable[error.reason] += 1
        event_type = _name_of(error.event)
        self._alike[error.reason, event_type] += 1
        count = self._alike[error.reason, event_type]
        if _is_power_of_ten(count):
            log.warning(
                "event unreadable", reason=error.reason, event_type=event_type, count=count, error=str(error)
            )


def _name_of(event: str) -> str:
    return event if event in KNOWN else _UNKNOWN


def _is_power_of_ten(count: int) -> bool:
    return str(count).rstrip("0") == "1"
