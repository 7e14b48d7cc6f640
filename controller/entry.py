"""One instance as it is known, and the facts about it that `merge` takes.

Fifty thousand entries have to fit and five thousand a second to be replaced, so an entry is a frozen record
without a life of its own in the garbage collector, and everything in it is shared with its predecessor.
"""

from __future__ import annotations

import msgspec

from mooring.controller.events import AppTerminated, HealthReported, InstanceReported, TaskReported
from mooring.core.model import AppId, Health, Instance, InstanceId, State, TaskId

Order = tuple[int, str, int]  # attachment to the stream, stamp, rank of the state
NEVER: Order = (-1, "", 0)


class Unlisted(msgspec.Struct, frozen=True):
    """A listing of its app lacks the instance; `expected` if Marathon said that it deletes the app.

    Absence from listings that began before `after` does not count: the stream was interrupted then.
    """

    expected: bool = False
    after: float = float("-inf")


class Vanished(msgspec.Struct, frozen=True):
    """The instance's absence is final: two listings agreed, or an operator said so."""


class Checks(msgspec.Struct, frozen=True):
    """What its app's definition says about health checks."""

    on: bool


Fact = (
    TaskReported | InstanceReported | HealthReported | AppTerminated | Instance | Unlisted | Vanished | Checks
)


class Entry(msgspec.Struct, frozen=True, gc=False):  # it never refers to itself; the collector may skip it
    """What is known about one instance."""

    instance: Instance
    touched: float = float("-inf")  # when the last fact came; listings begun before it say nothing new
    checked: bool = True  # whether its app has health checks
    order: Order = NEVER  # of the newest event about the state
    born: Order = NEVER  # of the oldest event about this incarnation; older verdicts are not about it
    verdict: Health = Health.UNKNOWN
    verdict_order: Order = NEVER
    ended: int = 0  # the highest incarnation known to have ended
    evidence: bool = False  # its absence from a listing would be no surprise
    absent_since: float | None = None  # when the first listing without it began
    expected: bool = False  # absent because its app is being deleted; the end of it was not told yet

    @property
    def gone(self) -> bool:
        return self.instance.state is State.GONE

    @property
    def heard_of(self) -> bool:
        """Whether an event spoke of it after it was first absent, and does not explain the absence."""
        return self.absent_since is not None and self.touched >= self.absent_since and not self.evidence

    @property
    def unexplained(self) -> bool:
        """Whether it is absent, and nothing says why."""
        return self.absent_since is not None and not self.expected


def blank(id: InstanceId, app: AppId, *, checked: bool = True) -> Entry:
    """An instance of which nothing is known yet; any incarnation is higher than its own."""
    return Entry(Instance(id, -1, TaskId(""), app, None, State.STARTING), checked=checked)


def confirmed(entry: Entry, begun: float, confirm_s: float) -> bool:
    """Whether a listing begun at `begun` is the second to lack the instance, long enough after the first."""
    since = entry.absent_since
    return since is not None and entry.touched < begun and begun - since >= confirm_s
