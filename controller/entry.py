"""One instance, and the rules by which facts about it are merged.

Events arrive late, twice, out of order or not at all; listings (a snapshot, or one app's refresh) are
right but old by the time they arrive.  The rules, strongest first:

  1. A higher incarnation replaces everything known of a lower one; a lower one says nothing.
  2. Terminal absorbs: an incarnation that has ended stays ended, whatever else arrives about it.
  3. Within an incarnation the event published later wins (`stamp`; on a tie the state further along).
     Stamps order hints, nothing more: they are compared only within one attachment to the stream, and
     an event that came too late asks for a listing, so a leader's wrong clock costs one request.
  4. A listing overrides what was not touched since before its request began.
  5. A condition names no incarnation, so it cannot end one: it may be about the one before, or the one
     to come.  A terminal condition is kept as evidence that the instance's absence will be no surprise;
     a starting one withdraws that evidence, because a relaunch is in the making.
  6. Health follows its own stamps.  An unknown verdict keeps the last one; a new incarnation begins
     without one; what has ended, or has no health checks, shows none.

With these, any order of an instance's events that contains its last one ends in the same state.
Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mooring.controller.events import HealthReported, InstanceReported, TaskReported
from mooring.core.model import AppId, Health, Instance, InstanceId, State, TaskId

_PROGRESS = (
    State.STARTING,
    State.RUNNING,
    State.KILLING,
    State.UNREACHABLE,
    State.INACTIVE,
    State.DEAD,
    State.GONE,
)
_RANK = {state: rank for rank, state in enumerate(_PROGRESS)}
_ENDED = (State.DEAD, State.GONE)
_UNDER_WAY = (State.RUNNING, State.KILLING, State.UNREACHABLE, State.INACTIVE)

Order = tuple[int, str, int]  # attachment to the stream, stamp, rank of the state
NEVER: Order = (-1, "", 0)


@dataclass(slots=True)
class Entry:
    """What is known about one instance. The `take_*` methods answer whether a listing should clear it up."""

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
    forgotten: bool = False  # GONE and done with; kept to recognise late echoes

    @property
    def gone(self) -> bool:
        return self.instance.state is State.GONE

    def take_task(self, event: TaskReported, attachment: int, now: float) -> bool:
        """Merge a task's state."""
        if event.incarnation < self.instance.incarnation:
            return False
        order = (attachment, event.stamp, _RANK[event.state])
        if event.incarnation > self.instance.incarnation:
            unclear = False
            self._begin_incarnation(_described(event), order, now)
        else:
            unclear = self._continue_incarnation(event, order, now)
        if event.state is State.DEAD and self.ended < event.incarnation:
            self.ended = event.incarnation
            unclear = True  # will Marathon relaunch it, or has it forgotten it?
        return unclear

    def _begin_incarnation(self, instance: Instance, order: Order, now: float) -> None:
        """Start afresh, keeping what was published later and so must be about this incarnation."""
        if self.order > order:
            ahead = _PROGRESS[self.order[2]]
            if ahead in _UNDER_WAY and instance.state is not State.DEAD:
                instance = replace(instance, state=ahead)
        else:
            self.order = order
            self.evidence = instance.state is State.DEAD
        if not order[1]:
            self.verdict_order = NEVER  # without a stamp, no verdict can be told to be about this one
        self.born = order
        self.touched = now
        self.absent_since = None
        self.forgotten = False
        self.show(instance)

    def _continue_incarnation(self, event: TaskReported, order: Order, now: float) -> bool:
        if order < self.born:
            self.born = order
            self.show(self.instance)
        newer = self._advance(order, now)
        state = self.instance.state
        if event.state is State.DEAD:
            relaunch_seen = not newer and _PROGRESS[self.order[2]] is State.STARTING
            self.evidence = not relaunch_seen
            if state not in _ENDED:
                self.touched = now
                self.show(_merged(self.instance, _described(event)))
            return not newer
        if state is State.GONE:
            return self.ended < event.incarnation  # is it back, or is this a late echo?
        if newer and state is not State.DEAD:
            self.evidence = False
            self.show(_merged(self.instance, _described(event)))
        return not newer and state is not State.DEAD

    def take_condition(self, event: InstanceReported, attachment: int, now: float) -> bool:
        """Merge a condition of the instance, whichever incarnation it means."""
        known = self.instance
        if not self._advance((attachment, event.stamp, _RANK[event.state]), now):
            return known.state not in _ENDED
        self.evidence = event.state in (State.DEAD, State.INACTIVE)
        if known.state in _ENDED:
            return event.state in _UNDER_WAY
        if event.state is State.DEAD:
            return True
        if event.state is State.STARTING and known.state is not State.STARTING:
            return True  # nothing starts twice: the end of this incarnation was missed
        self.show(replace(known, state=event.state, host=known.host or event.host))
        return self.evidence or (event.state is State.RUNNING and known.state is not State.RUNNING)

    def take_health(self, event: HealthReported, attachment: int, now: float) -> None:
        """Merge a verdict of the health checks; `show` decides whether it is about this incarnation."""
        order = (attachment, event.stamp, 0) if event.stamp else max(self.verdict_order, self.born)
        if event.healthy is None or order < self.verdict_order:
            return
        self.verdict = Health.HEALTHY if event.healthy else Health.UNHEALTHY
        self.verdict_order = order
        self.touched = now
        self.show(self.instance)

    def take_listed(self, listed: Instance, begun: float, attachment: int) -> None:
        """Merge what a listing begun at `begun` says."""
        known = self.instance
        if self.touched >= begun or listed.incarnation < known.incarnation:
            return
        if listed.incarnation > known.incarnation:
            self._begin_incarnation(listed, (attachment, "", 0), begun)
        self.touched = begun
        self.absent_since = None
        if listed.state is State.DEAD:
            self.ended = max(self.ended, listed.incarnation)
        if self.ended >= listed.incarnation and listed.state is not State.DEAD:
            return  # the listing is behind
        self.evidence = listed.state in (State.DEAD, State.INACTIVE)
        if listed.health is not Health.UNKNOWN:
            self.verdict = listed.health
            self.verdict_order = max(self.verdict_order, self.born)
        if not (self.gone and listed.state is State.DEAD):
            self.forgotten = False
            self.show(_merged(self.instance, listed))

    def end_absent(self, now: float) -> None:
        """Marathon has forgotten the instance."""
        self.touched = now
        self.absent_since = None
        self.show(replace(self.instance, state=State.GONE))

    def show(self, instance: Instance) -> None:
        """Describe the instance so, with the health it has."""
        known = self.checked and instance.state not in _ENDED and self.verdict_order >= self.born
        health = self.verdict if known else Health.UNKNOWN
        self.instance = instance if instance.health is health else replace(instance, health=health)

    def _advance(self, order: Order, now: float) -> bool:
        """Whether the event is the newest about the state; if it is, remember that."""
        if order[1] and order < self.order:
            return False
        self.order = order
        self.touched = now
        return True


def blank(id: InstanceId, app: AppId) -> Entry:
    """An instance of which nothing is known yet; any incarnation is higher than its own."""
    return Entry(Instance(id, -1, TaskId(""), app, None, State.STARTING))


def _described(event: TaskReported) -> Instance:
    return Instance(
        id=event.instance,
        incarnation=event.incarnation,
        task=event.task,
        app=event.app,
        host=event.host,
        state=event.state,
        host_ports=event.host_ports,
        version=event.version,
    )


def _merged(known: Instance, told: Instance) -> Instance:
    """The newer description; what an ended or inactive task no longer tells stays as it was."""
    return replace(
        known,
        state=told.state,
        host=told.host or known.host,
        host_ports=told.host_ports or known.host_ports,
        version=told.version or known.version,
    )
