"""The case table of `merge`, walked case by case, and the rules that take more than one step to show."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

import mooring.controller.merge
from mooring.controller.entry import Checks, Entry, Fact, Unlisted, Vanished, blank, confirmed
from mooring.controller.events import AppsChanged, AppTerminated, HealthReported, SchedulerChanged
from mooring.controller.merge import merge
from mooring.controller.view import Dirty
from mooring.core.model import AppId, InstanceId, State
from tests.unit.view_world import (
    ONE,
    WEB,
    H,
    S,
    World,
    app,
    condition,
    health,
    instance,
    stamp,
    task,
)

# -- the table in the module's docstring, read as it stands there

_VERDICTS = {"good": True, "bad": False, "none": None, "healthy": True, "unhealthy": False}
_OLD, _FIRST = 5.0, 10.0  # when an old listing began; when the first of the known facts came


def table() -> Iterator[list[str]]:
    """Case, known, told, becomes, ask: the rows, continuation lines joined."""
    lines = str(mooring.controller.merge.__doc__).splitlines()
    rule = next(at for at, line in enumerate(lines) if line.split()[:1] == ["----"])
    columns = [match.span() for match in re.finditer("-+", lines[rule])]
    rows: list[list[str]] = []
    for line in lines[rule + 1 :]:
        if line and not line.startswith("    "):
            break
        cells = [line[start:end].strip() for start, end in columns]
        if cells[0]:
            rows.append(cells)
        elif any(cells):
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
    yield from rows


def fact(words: str) -> Fact:
    """`task running 1@5`, `condition dead @7`, `verdict bad @7`, `listed running 1 healthy`, ..."""
    match words.replace("@", " @").split():
        case ["task", state, n, at]:
            return task(State(state), int(n), int(at[1:]))
        case ["condition", state, at]:
            return condition(State(state), int(at[1:]))
        case ["verdict", word, at]:
            return HealthReported(ONE, WEB, _VERDICTS[word], stamp(int(at[1:])))
        case ["listed", state, n, *verdict]:
            return instance(ONE, int(n), State(state), H(verdict[0]) if verdict else H.UNKNOWN)
        case ["checks", "off"]:
            return Checks(on=False)
        case ["app", "terminated"]:
            return AppTerminated(WEB)
        case ["unlisted" | "absent"]:
            return Unlisted()
        case ["unlisted,", "expected"] | ["expected"]:
            return Unlisted(expected=True)
        case ["vanished"]:
            return Vanished()
    raise ValueError(words)


def facts(known: str) -> Iterator[Fact]:
    """What was told so that this is known: `running 1@5 healthy @7`, then `absent`, `listed ...`, ..."""
    first, *more = [part for part in known.split(", ") if part not in ("evidence", "nothing")] or [""]
    if first.startswith("gone"):
        yield task(S.DEAD, at=1) if "ended" in more else instance()
        yield Unlisted()
        yield Vanished()
        return
    if first:
        state, n, *verdict = first.split()
        yield fact(f"task {state} {n}" if "@" in n else f"listed {state} {n}")
        if verdict:
            yield fact(f"verdict {verdict[0]} {verdict[1]}")
    for words in more:
        yield fact(words)


def described(entry: Entry) -> str:
    """The entry in the table's words."""
    seen = entry.instance
    words = f"{seen.state} {seen.incarnation}" + (f" {seen.health}" if seen.health is not H.UNKNOWN else "")
    evidence = ", evidence" if entry.evidence else ""
    absent = ", expected" if entry.expected else ", absent"
    return words + evidence + (absent if entry.absent_since is not None else "")


@pytest.mark.parametrize(
    ("known", "told", "becomes", "ask"), [pytest.param(*row, id=case) for case, *row in table()]
)
def test_case(known: str, told: str, becomes: str, ask: str) -> None:
    entry, at = blank(ONE, WEB), _FIRST
    for each in facts(known):
        entry, _ = merge(entry, each, at)
        at += 10
    before = entry
    entry, unclear = merge(entry, fact(told.removeprefix("old ")), _OLD if told.startswith("old ") else at)
    assert (described(entry), unclear) == (becomes, ask == "ask")
    assert described(before) != described(entry) or entry.instance is before.instance


def test_every_part_of_the_table_is_there() -> None:
    cases = [case for case, *_ in table()]
    assert len(cases) == len(set(cases)) > 50
    assert {case[0] for case in cases} == set("NTCHLA")


# -- what the table leaves out


@pytest.mark.parametrize(
    ("touched", "since", "begun", "agreed"),
    [(10, 20.0, 80, True), (10, 20.0, 79, False), (80, 20.0, 80, False), (10, None, 80, False)],
)
def test_an_absence_is_confirmed_by_a_second_listing(
    touched: float, since: float | None, begun: float, agreed: bool
) -> None:
    entry = Entry(instance(), touched=touched, absent_since=since)
    assert confirmed(entry, begun, 60.0) is agreed


def test_a_duplicate_changes_nothing() -> None:
    world = World(instance())
    world.tell(task(S.RUNNING, at=1))
    assert world.tell(task(S.RUNNING, at=1), health(None)) == Dirty()


def test_conditions_of_unknown_instances() -> None:
    world = World()
    assert world.tell(condition(S.STARTING), condition(S.DEAD)) == Dirty()
    assert world.tell(condition(S.RUNNING)).apps_to_refresh == {WEB}
    assert world.view.instance(ONE) is None


def test_an_unknown_app_is_asked_for() -> None:
    world = World()
    other = AppId("/other")
    assert world.tell(task(S.RUNNING, of=other)).apps_to_refresh == {other}
    assert world.view.app(other) is None
    assert [found.id for found in world.view.instances_of(other)] == [ONE]


def test_app_and_scheduler_events() -> None:
    world = World()
    dirty = world.tell(AppsChanged((WEB,)), SchedulerChanged())
    assert dirty == Dirty(set(), {WEB}, True)


def test_pods_are_left_alone() -> None:
    world = World()
    pod = AppId("/pod")
    world.tell(AppsChanged((), (pod,)))
    assert world.tell(condition(S.RUNNING, of=pod), health(True, of=pod)) == Dirty()
    world.snap(pods={AppId("/pod2"): frozenset({InstanceId("p")})})
    assert world.tell(condition(S.RUNNING, of=AppId("/pod2"))) == Dirty()
    assert world.tell(condition(S.RUNNING, of=pod)).apps_to_refresh == {pod}
    world.tell(AppsChanged((), (pod,)), AppsChanged((pod,), ()))
    assert world.tell(condition(S.RUNNING, of=pod)).apps_to_refresh == {pod}


def test_what_an_ended_task_no_longer_tells_stays() -> None:
    world = World(instance())
    end = replace(task(S.DEAD), host=None, host_ports=(), version="")
    world.tell(end)
    assert world.one() == instance(state=S.DEAD)


def test_a_new_attachment_voids_older_stamps() -> None:
    world = World(instance())
    world.tell(task(S.UNREACHABLE, at=30))
    world.view.attached(world.now)
    world.tell(task(S.RUNNING, at=5))
    assert world.state is S.RUNNING


# -- health


def test_health_is_kept_while_it_is_unknown() -> None:
    world = World(instance(health=H.HEALTHY))
    world.tell(health(None))
    world.snap(instance(health=H.UNKNOWN))
    assert world.one().health is H.HEALTHY
    world.snap(instance(health=H.UNHEALTHY))
    assert world.one().health is H.UNHEALTHY


def test_a_new_incarnation_begins_without_health() -> None:
    world = World(instance(health=H.HEALTHY))
    world.tell(health(True, at=1), task(S.DEAD, at=2))
    assert world.one().health is H.UNKNOWN
    world.tell(task(S.RUNNING, 2, at=3), health(False, at=2))
    assert world.one().health is H.UNKNOWN
    world.tell(health(True, at=4))
    assert world.one().health is H.HEALTHY


def test_a_verdict_may_overtake_the_report_of_its_incarnation() -> None:
    world = World(instance())
    world.tell(task(S.DEAD, at=1), health(True, at=4), task(S.RUNNING, 2, at=3))
    assert world.one().health is H.HEALTHY


def test_a_verdict_between_two_reports_of_one_incarnation_counts_in_any_order() -> None:
    world = World(instance())
    world.tell(task(S.RUNNING, 2, at=7), health(False, at=6))
    assert world.one().health is H.UNKNOWN
    world.tell(task(S.RUNNING, 2, at=5))
    assert world.one().health is H.UNHEALTHY


def test_without_stamps_verdicts_count_in_the_order_they_come() -> None:
    world = World(instance())
    world.tell(health(True))
    assert world.one().health is H.HEALTHY
    world.tell(task(S.RUNNING, 2))
    assert world.one().health is H.UNKNOWN
    world.tell(health(False))
    assert world.one().health is H.UNHEALTHY


def test_a_new_instance_of_an_app_without_checks_has_no_health() -> None:
    world = World()
    world.list(of=app(checked=False))
    world.tell(task(S.RUNNING, at=1), health(True, at=2))
    assert world.one().health is H.UNKNOWN


def test_a_late_verdict_loses() -> None:
    world = World(instance())
    world.tell(health(False, at=5), health(True, at=4))
    assert world.one().health is H.UNHEALTHY


def test_an_app_without_checks_has_no_health() -> None:
    world = World(instance(health=H.HEALTHY))
    dirty = world.list(instance(), of=app(checked=False))
    assert (world.one().health, dirty.keys) == (H.UNKNOWN, {ONE})
    world.list(instance(), of=app(checked=True))
    assert world.one().health is H.HEALTHY
