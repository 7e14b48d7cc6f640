"""The rules by which facts about one instance are merged: one pure function, and its case table.

Events arrive late, twice, out of order or not at all; listings (a snapshot, or one app's) are right but
old by the time they arrive.  The rules, strongest first:

  1. A higher incarnation replaces everything known of a lower one; a lower one says nothing.
  2. Terminal absorbs: an incarnation that has ended stays ended, whatever else arrives about it.
  3. Within an incarnation the event published later wins (`stamp`; on a tie the state further along), and
     a duplicate says nothing.  Stamps order hints, nothing more: they are compared only within one
     attachment to the stream, and an event that came too late asks for a listing.
  4. A listing overrides what was not touched since before its request began.
  5. A condition names no incarnation, so it cannot end one: it may be about the one before, or the one
     to come.  A terminal condition is kept as evidence that the instance's absence will be no surprise;
     a starting one withdraws that evidence, because a relaunch is in the making.
  6. Health follows its own stamps.  An unknown verdict keeps the last one; a new incarnation begins
     without one; what has ended, or has no health checks, shows none.  A verdict that could be about
     either of two incarnations asks for a listing.

What comes of it, case by case.  `2@5` is incarnation 2 in an event published at 5; a listing says `2` and
no more.  A listing in these cases began after everything known; what one says that began before has its
own cases (`old`).  Absence lasts from the first of the listings in a row that lack the instance; where an
event came between two of them, or the first was expected and the second is not, it begins anew with the
second.  It is expected once Marathon has said that it deletes the app: it stops listing such an app long
before the last of its tasks has ended.  "ask" means that a listing begun from now on should clear it up.

    case  known                        told                  becomes                      ask
    ----  ---------------------------  --------------------  ---------------------------  ---
    N1    nothing                      task starting 1@5     starting 1                   no
    N2    nothing                      task dead 1@5         dead 1, evidence             ask
    N3    nothing                      listed running 1      running 1                    no

    T1    starting 1@1                 task running 1@5      running 1                    no
    T2    running 1@5                  task starting 1@1     running 1                    ask
    T3    running 1@5                  task running 1@5      running 1                    no
    T4    unreachable 1@5              task running 1@7      running 1                    no
    T5    unreachable 1@5              task running 1@5      unreachable 1                ask
    T6    running 1@5                  task dead 1@7         dead 1, evidence             ask
    T7    running 1@5                  task dead 1@1         dead 1, evidence             ask
    T8    dead 1@5, evidence           task running 1@7      dead 1, evidence             no
    T9    dead 1@5, evidence           task dead 1@5         dead 1, evidence             no
    T10   running 2@5                  task dead 1@7         running 2                    no
    T11   dead 1@5, evidence           task running 2@7      running 2                    no
    T12   running 1@5                  task dead 2@7         dead 2, evidence             ask
    T13   running 1, condition         task dead 1@5         dead 1                       ask
          starting @7
    T14   gone 1, ended                task running 1@7      gone 1, evidence             no
    T15   gone 1                       task running 1@7      gone 1                       ask
    T16   gone 1, ended                task running 2@7      running 2                    no
    T17   dead 1, condition            task running 2@5      inactive 2, evidence         ask
          inactive @7
    T18   running 1@5, listed          task running 1@5      unreachable 1                ask
          unreachable 1
    T19   running 1@1 healthy @7       task unreachable 1@5  unreachable 1 healthy        ask
    T20   dead 1@5, evidence,          task dead 1@5         dead 1                       no
          condition starting @7

    C1    running 1@5                  condition running @5  running 1                    no
    C2    running 1@5                  condition killing @7  killing 1                    no
    C3    starting 1@5                 condition running @7  running 1                    ask
    C4    unreachable 1@5              condition             inactive 1, evidence         ask
                                       inactive @5
    C5    running 1@5                  condition dead @7     running 1, evidence          ask
    C6    running 1@5                  condition             running 1                    ask
                                       starting @7
    C7    dead 1@5, evidence           condition             dead 1                       no
                                       starting @7
    C8    dead 1@5, evidence           condition running @7  dead 1                       ask
    C9    running 1@5                  condition dead @1     running 1                    ask
    C10   dead 1@5, evidence           condition running @1  dead 1, evidence             no
    C11   running 1, condition         condition running @7  running 1                    no
          dead @5
    C12   running 1, condition         condition killing @5  running 1                    ask
          killing @5, listed
          running 1

    H1    running 1@5                  verdict bad @7        running 1 unhealthy          no
    H2    running 1 healthy @7         verdict none @8       running 1 healthy            no
    H3    running 1 healthy @7         verdict bad @6        running 1 healthy            no
    H4    running 2@5                  verdict bad @3        running 2                    ask
    H5    dead 1@5, evidence           verdict good @7       dead 1, evidence             no
    H6    running 1 healthy @7         task running 2@9      running 2                    ask
    H7    running 1 healthy @7,        verdict good @7       running 1 unhealthy          ask
          listed running 1 unhealthy
    H8    running 1 healthy @7         checks off            running 1                    no
    H9    running 1@5 healthy @7,      task running 2@9      running 2                    ask
          condition killing @8
    H10   dead 1@5, evidence, listed   verdict bad @3        running 2                    ask
          running 2
    H11   running 1 healthy @3         task running 1@5      running 1 healthy            ask

    L1    starting 1@5                 listed running 1      running 1                    no
    L2    running 1 healthy @7         listed running 1      running 1 healthy            no
    L3    running 1@5                  listed running 2      running 2                    no
    L4    running 2@5                  listed running 1      running 2                    no
    L5    dead 1@5, evidence           listed running 1      dead 1, evidence             no
    L6    running 1@5                  listed inactive 1     inactive 1, evidence         no
    L7    running 1@5                  listed dead 1         dead 1, evidence             no
    L8    gone 1                       listed running 1      running 1                    no
    L9    gone 1                       listed dead 1         gone 1, evidence             no
    L10   running 1, absent            listed running 1      running 1                    no
    L11   starting 1@5                 old listed running 1  starting 1                   no
    L12   running 1@5                  old listed running 2  running 1                    ask
    L13   running 1@5                  old listed running 1  running 1                    ask
                                       healthy

    A1    running 1@5                  unlisted              running 1, absent            no
    A2    dead 1@5, evidence           unlisted              gone 1, evidence             no
    A3    running 1@5                  old unlisted          running 1                    no
    A4    dead 1@5, evidence           old unlisted          dead 1, evidence             ask
    A5    gone 1                       unlisted              gone 1                       no
    A6    running 1, absent            task running 2@7      running 2                    no
    A7    running 1, absent            condition running @7  running 1, absent            no
    A8    running 1, absent            vanished              gone 1                       no
    A9    running 1@5                  app terminated        running 1, evidence          ask
    A10   gone 1                       app terminated        gone 1                       no
    A11   running 1@5                  unlisted, expected    running 1, expected          no
    A12   running 1, absent            unlisted, expected    running 1, expected          no
    A13   running 1, expected          unlisted              running 1, absent            no
    A14   running 1, expected          listed running 1      running 1                    no
    A15   dead 1@5, evidence           unlisted, expected    gone 1, evidence             no
    A16   running 1, absent,           unlisted              running 1, absent            no
          condition running @7
    A17   running 1, absent,           vanished              running 1                    no
          condition running @7
    A18   running 1, absent,           vanished              gone 1, evidence             no
          condition dead @7

What this promises for one instance, in whatever order, however late and however often its events and listings
of it come.  An event counts as heard if it is told while the instance is known, or is a task report.

  * Events alone, within one attachment: if the incarnation's last task report and all conditions after it
    were heard, state and incarnation are the true ones.  Health is, too, if the incarnation's first report
    and its last verdict were heard.
  * With listings: if those were heard (the first report need not be), then once every listing that was asked
    for has been merged, state, incarnation and health are the true ones, and the instance is gone if
    Marathon has forgotten it.
  * Whatever was heard, over any number of attachments: after two snapshots begun after the last event, at
    least `absence_confirm_s` apart, all of it is true.  The first of them is enough for all but the absence
    of an instance whose end was not heard.  (The daemon has a snapshot taken at each attachment, after each
    known loss and on a timer.)  If the deletion of its app was heard, and no interruption of the stream
    known since, its end is waited for ten times as long: then they have to be that far apart.

Listings are taken to show Marathon in the order in which they were begun.  And two things no event and no
listing tells.  While Marathon prepares a relaunch, no event names the incarnation to come, and while it has
only scheduled it, listings lack the instance: until the first report or listing of the new incarnation the
old one stands.  While Marathon has no verdict on an incarnation, nothing contradicts an older verdict, as
after a failover: then the last one known stays.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from mooring.controller.entry import Checks, Entry, Fact, Order, Unlisted, Vanished
from mooring.controller.events import AppTerminated, HealthReported, InstanceReported, TaskReported
from mooring.core.model import Health, HostName, Instance, State

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
_LEAVING = (State.DEAD, State.INACTIVE)  # to be missing in the next listing would be no surprise
_UNDER_WAY = (State.RUNNING, State.KILLING, State.UNREACHABLE, State.INACTIVE)


def merge(known: Entry, fact: Fact, at: float, attachment: int = 0) -> tuple[Entry, bool]:
    """What is known after `fact`, and whether a listing begun from now on should clear it up.

    An `Instance` is what a listing says.  `at` is the moment an event came or the listing began;
    `attachment` counts the attachments to the stream.  Where nothing changes, `known` itself comes back,
    and where only our knowledge does, its `instance` is the same object.
    """
    return _RULES[type(fact)](known, fact, at, attachment)


def _merge_task(known: Entry, event: TaskReported, now: float, attachment: int) -> tuple[Entry, bool]:
    incarnation = event.incarnation
    if incarnation < known.instance.incarnation:
        return known, False
    order = (attachment, event.stamp, _RANK[event.state])
    if incarnation == known.instance.incarnation:
        entry, unclear = _go_on(known, event, order, now)
    else:
        entry, unclear = _begin(known, _described(event), order, now)
    if event.state is State.DEAD and known.ended < incarnation:
        return replace(entry, ended=incarnation), True  # will Marathon relaunch it, or has it forgotten it?
    return entry, unclear


def _begin(known: Entry, instance: Instance, order: Order, at: float) -> tuple[Entry, bool]:
    """Start an incarnation afresh, keeping what was published later and so must be about it."""
    evidence, newest = instance.state is State.DEAD, order
    late = known.order > order
    if late:
        evidence, newest = known.evidence, known.order
        ahead = _PROGRESS[newest[2]]
        if ahead in _UNDER_WAY and instance.state is not State.DEAD:
            instance = _told(instance, ahead)
    # Without a stamp, no verdict can be told to be about this incarnation.
    verdict, verdict_order = known.verdict if order[1] else Health.UNKNOWN, known.verdict_order
    # A verdict from after the end of the incarnation before, or that end was missed: which is it about?
    missed = known.ended < known.instance.incarnation
    doubtful = verdict is not Health.UNKNOWN and verdict_order < order
    doubtful = doubtful and bool(verdict_order[1]) and (missed or known.order < verdict_order)
    entry = replace(
        known,
        instance=instance,
        touched=at,
        order=newest,
        born=order,
        verdict=verdict,
        evidence=evidence,
        absent_since=None,
        expected=False,
    )
    return _shown(entry), (late and bool(order[1])) or doubtful


def _go_on(known: Entry, event: TaskReported, order: Order, now: float) -> tuple[Entry, bool]:
    """A report about the incarnation that is known."""
    known, doubtful = _dated(known, order)
    late = bool(order[1]) and order < known.order
    if event.state is State.DEAD:
        return _end(known, event, order, now, late)
    state = known.instance.state
    if state is State.GONE:
        unclear = known.ended < event.incarnation  # is it back, or is this a late echo?
        return (replace(known, order=order, touched=now) if order > known.order else known), unclear
    if state is State.DEAD:
        return known, False
    if late:
        return known, True
    if order[1] and order == known.order:
        # The pair of a condition, or a duplicate: a listing may have put the state right since.
        entry = _shown(known, _merged(known.instance, event, state))
        return entry, doubtful or state is not event.state
    entry = replace(known, order=order, touched=now, evidence=False)
    late = bool(order[1]) and order < known.verdict_order and state is not event.state
    return _shown(entry, _merged(known.instance, event, event.state)), doubtful or late


def _end(known: Entry, event: TaskReported, order: Order, now: float, late: bool) -> tuple[Entry, bool]:
    """The known incarnation is over, however late that is told."""
    ended = known.instance.state in _ENDED
    if ended and order <= known.order and known.ended >= event.incarnation:
        return known, False
    relaunch_seen = late and _PROGRESS[known.order[2]] is State.STARTING
    entry = replace(
        known,
        order=known.order if late else order,
        touched=now,
        evidence=not relaunch_seen,
    )
    return (entry if ended else _shown(entry, _merged(known.instance, event, State.DEAD))), late


def _dated(known: Entry, order: Order) -> tuple[Entry, bool]:
    """With this report, when was the incarnation born?  And is its verdict in doubt?"""
    if not order[1] or (known.born[1] and order >= known.born):
        return known, False
    if known.born[1]:
        return _shown(replace(known, born=order)), False
    # A listing began the incarnation: a verdict from before this first report may be about another one.
    verdict_order = known.verdict_order
    if known.verdict is Health.UNKNOWN:
        return replace(known, born=order), False
    if not verdict_order[1]:
        return known, False
    return replace(known, born=min(verdict_order, order)), verdict_order < order


def _merge_condition(
    known: Entry, event: InstanceReported, now: float, attachment: int
) -> tuple[Entry, bool]:
    instance, state = known.instance, event.state
    order = (attachment, event.stamp, _RANK[state])
    ended = instance.state in _ENDED
    if order[1] and order <= known.order:
        settled = ended or (order == known.order and instance.state is state)
        return known, not settled
    entry = replace(known, order=order, touched=now, evidence=state in _LEAVING)
    if ended:
        return entry, state in _UNDER_WAY
    if state is State.DEAD or (state is State.STARTING and instance.state is not State.STARTING):
        return entry, True  # nothing starts twice: the end of this incarnation was missed
    entry = _shown(entry, _told(instance, state, instance.host or event.host))
    return entry, entry.evidence or (state is State.RUNNING and instance.state is not State.RUNNING)


def _merge_verdict(known: Entry, event: HealthReported, now: float, attachment: int) -> tuple[Entry, bool]:
    if event.healthy is None:
        return known, False
    verdict = Health.HEALTHY if event.healthy else Health.UNHEALTHY
    newest = known.verdict_order
    order = (attachment, event.stamp, 0) if event.stamp else max(newest, known.born)
    if order < newest:
        return known, False
    ended = known.instance.state in _ENDED
    if event.stamp and order == newest:
        return known, verdict is not known.verdict and not ended
    # Before the first report of the incarnation: is it about this one, or about the one before?
    doubtful = bool(event.stamp) and order < (known.born if known.born[1] else known.order)
    entry = replace(known, verdict=verdict, verdict_order=order, touched=now)
    return _shown(entry), doubtful and not ended


def _merge_listed(known: Entry, listed: Instance, begun: float, attachment: int) -> tuple[Entry, bool]:
    if listed.incarnation < known.instance.incarnation:
        return known, False
    if known.touched >= begun:
        return known, _tells_more(listed, known)
    if listed.incarnation > known.instance.incarnation:
        # Verdicts from before the end of the last incarnation, if that is known, are not about this one.
        end_known = known.ended >= known.instance.incarnation and known.order[0] == attachment
        known, _ = _begin(known, listed, known.order if end_known else (attachment, "", 0), begun)
    dead = listed.state is State.DEAD
    ended = max(known.ended, listed.incarnation) if dead else known.ended
    if ended >= listed.incarnation and not dead:  # the listing is behind
        return replace(known, touched=begun, absent_since=None, expected=False), False
    entry = replace(
        known,
        touched=begun,
        absent_since=None,
        expected=False,
        ended=ended,
        evidence=listed.state in _LEAVING,
    )
    if listed.health is not Health.UNKNOWN:
        order = max(entry.verdict_order, entry.born)
        entry = replace(entry, verdict=listed.health, verdict_order=order)
    if entry.gone and dead:
        return entry, False
    return _shown(entry, _merged(entry.instance, listed, listed.state)), False


def _tells_more(listed: Instance, known: Entry) -> bool:
    """Whether a listing that comes too late knows what no event has told: then it is worth another."""
    instance = known.instance
    if listed.incarnation > instance.incarnation:
        return True
    wanted = known.checked and instance.state not in _ENDED and instance.health is Health.UNKNOWN
    return wanted and listed.health is not Health.UNKNOWN


def _merge_unlisted(known: Entry, fact: Unlisted, begun: float, attachment: int) -> tuple[Entry, bool]:
    if known.gone:
        return known, False
    if known.touched >= begun:
        return known, known.evidence  # it ended while this listing was on its way: ask again
    if known.evidence:
        return _gone(known, begun), False
    since = known.absent_since
    if since is not None and max(known.touched, fact.after) < since and known.expected is fact.expected:
        return known, False
    return replace(known, absent_since=begun, expected=fact.expected), False


def _merge_vanished(known: Entry, fact: Vanished, at: float, attachment: int) -> tuple[Entry, bool]:
    if known.gone:
        return known, False
    if known.heard_of:
        return replace(known, absent_since=None), False
    return _gone(known, known.touched), False


def _merge_app_terminated(
    known: Entry, event: AppTerminated, now: float, attachment: int
) -> tuple[Entry, bool]:
    return (known, False) if known.gone else (replace(known, evidence=True, touched=now), True)


def _merge_checks(known: Entry, fact: Checks, at: float, attachment: int) -> tuple[Entry, bool]:
    return (known if known.checked is fact.on else _shown(replace(known, checked=fact.on))), False


def _gone(known: Entry, begun: float) -> Entry:
    entry = replace(known, touched=max(known.touched, begun), absent_since=None, expected=False)
    return _shown(entry, _told(known.instance, State.GONE))


def _shown(entry: Entry, instance: Instance | None = None) -> Entry:
    """The entry with this description, and in it the health that may be shown."""
    instance = instance or entry.instance
    known = entry.checked and instance.state not in _ENDED and entry.verdict_order >= entry.born
    health = entry.verdict if known else Health.UNKNOWN
    if instance.health is not health:
        instance = _told(instance, instance.state, health=health)
    return entry if instance is entry.instance else replace(entry, instance=instance)


def _described(event: TaskReported) -> Instance:
    return Instance(
        event.instance,
        event.incarnation,
        event.task,
        event.app,
        event.host,
        event.state,
        Health.UNKNOWN,
        event.host_ports,
        event.version,
    )


def _merged(known: Instance, told: Instance | TaskReported, state: State) -> Instance:
    """The newer description; what an ended or inactive task no longer tells stays as it was."""
    host = told.host or known.host
    ports = told.host_ports or known.host_ports
    version = told.version or known.version
    if state is known.state and (host, ports, version) == (known.host, known.host_ports, known.version):
        return known
    return replace(known, state=state, host=host, host_ports=ports, version=version)


def _told(
    known: Instance, state: State, host: HostName | None = None, health: Health | None = None
) -> Instance:
    """The same incarnation in another state; the very same object if nothing differs."""
    host, health = host or known.host, health or known.health
    if state is known.state and health is known.health and host == known.host:
        return known
    return replace(known, state=state, host=host, health=health)


_RULES: dict[type[Fact], Callable[[Entry, Any, float, int], tuple[Entry, bool]]] = {
    TaskReported: _merge_task,
    InstanceReported: _merge_condition,
    HealthReported: _merge_verdict,
    AppTerminated: _merge_app_terminated,
    Instance: _merge_listed,
    Unlisted: _merge_unlisted,
    Vanished: _merge_vanished,
    Checks: _merge_checks,
}
