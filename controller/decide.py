"""From what Marathon says and what we hold to what has to happen: a pure comparison.

The type of an event plays no part.  Duplicated, reordered and lost events therefore need no case of
their own: whatever arrived, the same two facts are compared again.

    observed \\ bound        nothing     same incarnation   older incarnation   departing
    ─────────────────────   ─────────   ────────────────   ─────────────────   ─────────
    nothing, gone           NOTHING     KILL               KILL                KILL
    inactive                NOTHING     KILL               KILL                KILL
    starting                NOTHING     HEALTH             DRAIN               KILL
    running                 CREATE      HEALTH             RESTART             RESTART
    killing, unreachable    NOTHING     DRAIN              DRAIN               KILL
    dead                    NOTHING     DRAIN              DRAIN               KILL
    running, host unknown   NOTHING     HEALTH             DRAIN               KILL
    running, another host   -           RESTART            RESTART             RESTART
    (observed older than bound)         NOTHING            -                   NOTHING

  * CREATE takes a seat for the instance and wires it.
  * RESTART keeps the seat and moves it to the new container (or gives it back to one that returned).
  * HEALTH compares what each sink shall show with the newest facts; mostly nothing differs.
  * DRAIN keeps the seat, takes the traffic away and, when the container is dead, its port.
  * KILL undoes everything in the reverse order and gives the seat back at the end.
"""

from __future__ import annotations

from enum import StrEnum

from mooring.core.model import Binding, Instance, State


class Decision(StrEnum):
    """What has to happen to one instance."""

    NOTHING = "nothing"
    CREATE = "create"
    RESTART = "restart"
    HEALTH = "health"
    DRAIN = "drain"
    KILL = "kill"


_LEAVING = frozenset({State.GONE, State.INACTIVE})
_WITHOUT_TRAFFIC = frozenset({State.KILLING, State.UNREACHABLE, State.DEAD})


def decide(observed: Instance | None, bound: Binding | None) -> Decision:
    """The row and column of the table above."""
    if bound is None:
        return Decision.CREATE if observed and _runs_somewhere(observed) else Decision.NOTHING
    if observed is None or observed.state in _LEAVING:
        return Decision.KILL
    if observed.incarnation < bound.incarnation:
        return Decision.NOTHING
    if _runs_somewhere(observed):
        again = observed.incarnation > bound.incarnation or observed.host != bound.host or bound.departing
        return Decision.RESTART if again else Decision.HEALTH
    if bound.departing:
        return Decision.KILL
    if observed.state in _WITHOUT_TRAFFIC or observed.incarnation > bound.incarnation:
        return Decision.DRAIN
    return Decision.HEALTH


def _runs_somewhere(observed: Instance) -> bool:
    """Marathon may report a task before it names its agent; until then there is no host to work on."""
    return observed.state is State.RUNNING and observed.host is not None
