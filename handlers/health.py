"""The newest facts about an instance become what its sinks shall show.

Called at every step of a walk, so a change of health, labels or members that arrives meanwhile is acted
on at once.  Nothing is stored and nothing happens when the wants equal the stored ones, which is the
usual case for a snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mooring.core.model import Binding, SinkName
from mooring.core.specs import Spec
from mooring.handlers.records import Records


async def show(
    records: Records,
    binding: Binding,
    wants: Mapping[SinkName, Spec | None],
    sinks: Collection[SinkName],
) -> Binding:
    """Store what each configured sink shall show for the binding, before any effect."""
    wishful = binding
    for sink, spec in wants.items():
        state = wishful.sink(sink)
        if sink in sinks and state.wanted != spec:
            wishful = wishful.with_sink(sink, state.want(spec))
    return await records.save(wishful)
