"""`mooring run --observe`: everything is decided, nothing is done.

Every sink is replaced by one that says in the log what it would do and claims to have done it, so that the
later steps of a walk are seen as well.  Records go to a store in memory.  The policy is chosen once, where
the daemon is composed; no sink and no handler knows about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from mooring.core.model import BindingId, SinkName
from mooring.core.sink import Change, Done, Observation, Outcome, Sink
from mooring.core.specs import Spec, encode_spec

log = structlog.get_logger(__name__)


class Rehearsal:
    """Stands in for a sink: tells, and does nothing."""

    def __init__(self, sink: Sink) -> None:
        self.name: SinkName = sink.name
        self._sink = sink

    def lane(self, change: Change) -> str:
        return self._sink.lane(change)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        for change in changes:
            log.info(
                "would change",
                sink=self.name,
                instance=change.binding,
                to=_text(change.wanted),
                instead_of=[_text(spec) for spec in change.was],
            )
        return [Done() for _ in changes]

    async def observe(self) -> Observation:
        return await self._sink.observe()

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """The real sink must not act on what it is told here."""

    async def check(self) -> str:
        return await self._sink.check()


def _text(spec: Spec | None) -> str:
    return "nothing" if spec is None else encode_spec(spec).decode()
