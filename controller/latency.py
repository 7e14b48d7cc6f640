"""From hearing of a change to its confirmation by each sink: the number operators judge us by.

The clock starts when the first fact that makes an instance unsettled arrives, and stops for each sink when
that sink confirms.  Further facts meanwhile do not restart it: whoever waits, waits since the first.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from mooring.core.clock import Clock
from mooring.core.model import Binding, BindingId
from mooring.core.sink import Change, Conflict, Done, NotPossible, Outcome, RetryAfter
from mooring.handlers.converge import Step

log = structlog.get_logger(__name__)

_KINDS: dict[type, str] = {
    Done: "done",
    RetryAfter: "retry",
    NotPossible: "refused",
    Conflict: "conflict",
}


class Latency:
    """Remembers since when each instance waits."""

    def __init__(
        self, clock: Clock, applied: Callable[[str, float], None], answered: Callable[[str, str], None]
    ) -> None:
        """`applied` gets sink and seconds of a confirmed change, `answered` sink and kind of any answer."""
        self._clock = clock
        self._applied = applied
        self._answered = answered
        self._since: dict[BindingId, float] = {}

    def heard(self, key: BindingId) -> None:
        """Something about the instance changed."""
        self._since.setdefault(key, self._clock.monotonic())

    def settled(self, key: BindingId) -> None:
        """Nothing is left to be done for the instance."""
        self._since.pop(key, None)

    def outcome(self, binding: Binding, step: Step, outcome: Outcome) -> None:
        """A sink has answered."""
        self._answered(step.sink, _KINDS[type(outcome)])
        if isinstance(outcome, Done):
            self._confirmed(binding, step)

    def _confirmed(self, binding: Binding, step: Step) -> None:
        since = self._since.get(binding.id)
        seconds = None if since is None else self._clock.monotonic() - since
        if seconds is not None:
            self._applied(step.sink, seconds)
        log.info(
            "applied",
            sink=step.sink,
            shows=_verb(step.change),
            app=binding.app,
            slot=binding.slot,
            address=binding.address,
            host=binding.host,
            after_s=None if seconds is None else round(seconds, 4),
        )


def _verb(change: Change) -> str:
    return "nothing" if change.wanted is None else type(change.wanted).__name__.removesuffix("Spec").lower()
