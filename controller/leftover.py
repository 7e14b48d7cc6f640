"""Records of nothing but one thing that has to go.

What carries our mark and is nobody's is undone on the ordinary path: by a record that leaves, with that one
thing as all that it shows.  Its own worker removes it, tries again where it has to, and forgets the record.
"""

from __future__ import annotations

from mooring.core.model import AppId, Binding, BindingId, HostName, InstanceId, SinkName, SinkState, TaskId
from mooring.core.specs import PortSpec, Spec

UNKNOWN_APP = AppId("(unknown)")  # a name does not tell which app it was for


def leftover(id: BindingId, app: AppId, sink: SinkName, spec: Spec) -> Binding:
    """The record; `id` is what a person calls the thing, `~` and a number."""
    name = id.rpartition("~")[0]
    port = spec if isinstance(spec, PortSpec) else None
    return Binding(
        id=id,
        app=app,
        instance=InstanceId(name),
        incarnation=1,
        task=TaskId(port.task if port else name),
        host=HostName(port.host if port else ""),
        departing=True,
        sinks={sink: SinkState(None, spec)},
    )
