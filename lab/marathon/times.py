"""Marathon's timestamps and versions.

A timestamp is UTC with milliseconds.  A version is a timestamp too, and it identifies an app's
definition, so two changes within one millisecond must still get two versions, in order.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_MILLISECOND = timedelta(milliseconds=1)


def stamp(moment: datetime | None = None) -> str:
    """The moment (default: now) as Marathon writes it, `2020-05-22T13:04:11.482Z`."""
    moment = moment or datetime.now(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


class Versions:
    """Hands out strictly increasing versions."""

    def __init__(self) -> None:
        self._last = datetime.fromtimestamp(0, UTC)

    def next(self) -> str:
        """A version later than every one before it."""
        self._last = max(datetime.now(UTC), self._last + _MILLISECOND)
        return stamp(self._last)
