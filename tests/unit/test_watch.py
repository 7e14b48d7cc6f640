"""What the watch asks Marathon for and what it queues, with a Marathon that answers from a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from mooring.cext import Frame
from mooring.controller.events import AppsChanged, TaskReported
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.queue import Priority, WorkQueue
from mooring.controller.snapshot import OtherCluster
from mooring.controller.view import Dirty, View
from mooring.controller.watch import Watch
from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable
from mooring.core.model import App, AppId, BindingId, HostName, Instance, InstanceId, State, TaskId

CLOCK = SystemClock()
ROUNDS = 16


def app_of(number: int) -> AppId:
    return AppId(f"/a{number}")


def instance(app: AppId, number: int) -> Instance:
    id = InstanceId(f"{app[1:]}.instance-{number}")
    return Instance(id, 1, TaskId(f"{id}._app.1"), app, HostName("h1"), State.RUNNING)


class ScriptedMarathon:
    """Answers with what is in `listed`; counts what it was asked."""

    def __init__(self, apps: int, instances: int) -> None:
        self.framework = "f"
        self.listed = {app_of(n): [instance(app_of(n), m) for m in range(instances)] for n in range(apps)}
        self.unreadable: dict[AppId, str] = {}
        self.snapshots = 0
        self.asked: list[AppId] = []
        self.answer: Callable[[], Any] = lambda: None  # awaited before each reply, if it returns something

    async def snapshot(self) -> Snapshot:
        self.snapshots += 1
        begun = CLOCK.monotonic()
        await self._think()
        readable = self.listed.keys() - self.unreadable.keys()
        listings = {id: self._listing(id, begun) for id in sorted(readable)}
        return Snapshot(begun, listings, unreadable=self.unreadable)

    async def apps(self, ids: Iterable[AppId]) -> dict[AppId, AppListing]:
        asked = list(ids)
        self.asked += asked
        begun = CLOCK.monotonic()
        await self._think()
        return {id: self._listing(id, begun) for id in asked}

    async def _think(self) -> None:
        if (thought := self.answer()) is not None:
            await thought

    def _listing(self, id: AppId, begun: float) -> AppListing:
        return AppListing(id, App(id, len(self.listed[id]), {}), tuple(self.listed[id]), begun)


class LongestWaits(random.Random):
    """Jitter at its worst."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Stand:
    """A watch over a scripted Marathon, and what it did."""

    def __init__(self, marathon: ScriptedMarathon) -> None:
        self.marathon = marathon
        self.view = View(absence_confirm_s=0.0)
        self.queue: WorkQueue[BindingId] = WorkQueue(CLOCK, random.Random(1))
        self.settled: set[BindingId] = set()
        self.read: list[str] = []
        self.watch = Watch(
            self.view,
            marathon,  # type: ignore[arg-type]
            self.queue,
            CLOCK,
            random.Random(1),
            3600.0,
            heard=lambda key: None,
            stored_keys=lambda: (),
            in_step=self.settled.__contains__,
            readers=self,
        )

    def know(self, apps: Iterable[AppId]) -> None:
        self.read.append(f"know {len(list(apps))}, view has {len(self.view.apps())}")

    def see(self, apps: Iterable[AppId], app: Callable[[AppId], App | None]) -> Iterator[None]:
        self.read.append(f"see {len(list(apps))}, complete {self.watch.complete.is_set()}")
        yield

    def take_all(self) -> set[str]:
        """Every waiting key, out of the queue."""
        taken = set()
        for line in self.queue._lines.values():
            while line:
                taken.add(line.popitem()[0])
        return taken

    async def snapshot(self) -> None:
        """One more snapshot, merged."""
        merged = self.watch.snapshots
        self.watch.attached()
        await self.until(lambda: self.watch.snapshots > merged)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def standing(apps: int = 3, instances: int = 2) -> AsyncIterator[Stand]:
    stand = Stand(ScriptedMarathon(apps, instances))
    task = asyncio.create_task(stand.watch.run())
    try:
        await stand.until(stand.watch.complete.is_set)
        yield stand
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring.controller.watch._GAP_S", 0.001)


async def test_apps_are_known_before_they_are_merged_and_read_before_anybody_works() -> None:
    async with standing() as stand:
        assert stand.read == ["know 3, view has 0", "see 3, complete False"]


async def test_the_first_snapshot_queues_everything_and_later_ones_what_is_not_in_step() -> None:
    async with standing(apps=10, instances=16) as stand:
        everything = stand.take_all()
        assert len(everything) == 160
        out_of_step = {BindingId("a3.instance-5")}
        stand.settled = set(map(BindingId, everything)) - out_of_step
        stand.watch._in_step = stand.settled.__contains__
        await stand.snapshot()
        queued = stand.take_all()
        assert out_of_step <= queued
        assert len(queued) < 60


async def test_everything_is_looked_at_again_within_sixteen_snapshots() -> None:
    async with standing(apps=4, instances=8) as stand:
        everything = stand.take_all()
        stand.watch._in_step = lambda key: True
        seen: set[str] = set()
        for _ in range(ROUNDS):
            await stand.snapshot()
            seen |= stand.take_all()
        assert seen == everything


async def test_what_a_snapshot_changed_goes_before_what_it_only_repeats() -> None:
    async with standing(apps=2, instances=2) as stand:
        stand.take_all()
        stand.marathon.listed[app_of(1)].append(instance(app_of(1), 9))
        await stand.snapshot()
        assert stand.queue.depth(Priority.LIVE) == 1
        assert stand.queue.depth(Priority.RESYNC) == 4


async def test_unclear_apps_are_asked_for_singly() -> None:
    async with standing(apps=300, instances=1) as stand:
        snapshots = stand.marathon.snapshots
        for number in range(25):  # fewer than a tenth of all
            stand.watch.mark(stand.view.apply_event(AppsChanged((app_of(number),)), CLOCK.monotonic()))
        await stand.until(lambda: len(stand.marathon.asked) == 25)
        assert stand.marathon.snapshots == snapshots


async def test_too_many_unclear_apps_are_one_snapshot() -> None:
    async with standing(apps=100, instances=1) as stand:
        snapshots = stand.marathon.snapshots
        changed = AppsChanged(tuple(app_of(number) for number in range(21)))
        stand.watch.mark(stand.view.apply_event(changed, CLOCK.monotonic()))
        await stand.until(lambda: stand.marathon.snapshots > snapshots)
        assert stand.marathon.asked == []


async def test_a_slow_listing_is_followed_by_a_rest_that_a_new_attachment_ends() -> None:
    async with standing() as stand:
        stand.marathon.answer = lambda: asyncio.sleep(0.3)
        await stand.snapshot()
        stand.marathon.answer = lambda: None
        before = stand.marathon.snapshots
        stand.watch.lost("rubbish")
        await asyncio.sleep(0.1)  # a sixth of the rest
        assert stand.marathon.snapshots == before
        stand.watch.attached()
        await stand.until(lambda: stand.marathon.snapshots > before)


async def test_a_listing_that_hangs_is_begun_anew_at_an_attachment_but_only_once() -> None:
    async with standing() as stand:
        hangs = asyncio.Event()
        stand.marathon.answer = hangs.wait
        asked = stand.marathon.snapshots
        stand.watch.lost("rubbish")
        await stand.until(lambda: stand.marathon.snapshots == asked + 1)
        stand.watch.attached()
        await stand.until(lambda: stand.marathon.snapshots == asked + 2)
        stand.watch.attached()
        await asyncio.sleep(0.05)
        assert stand.marathon.snapshots == asked + 2
        stand.marathon.answer = lambda: None
        hangs.set()
        await stand.until(lambda: stand.marathon.snapshots == asked + 3)  # for the second attachment


async def test_the_pause_after_a_failed_listing_ends_at_an_attachment() -> None:
    async with standing() as stand:
        stand.watch._chance = LongestWaits()
        failing = True

        def answer() -> None:
            if failing:
                raise Retryable("Marathon is away")

        stand.marathon.answer = answer
        for _ in range(6):  # until the pause is the longest there is
            stand.watch.attached()
            problems = stand.marathon.snapshots
            await stand.until(lambda before=problems: stand.marathon.snapshots > before)
        failing = False
        merged = stand.watch.snapshots
        stand.watch.attached()
        async with asyncio.timeout(2):
            await stand.until(lambda: stand.watch.snapshots > merged)


async def test_another_clusters_events_are_not_taken_until_ours_is_back() -> None:
    async with standing() as stand:

        def refuse() -> None:
            raise OtherCluster("another framework")

        app, new = app_of(0), "a0.instance-5f0f6aab-9c2e-11ea-bb37-7085c2d4e601"
        body = f'{{"taskId":"{new}._app.1","taskStatus":"TASK_RUNNING","appId":"{app}","host":"h1"}}'
        event = Frame("status_update_event", body.encode())
        stand.marathon.answer = refuse
        stand.watch.attached()
        await stand.until(lambda: stand.watch.snapshot_problem == "another framework")
        stand.watch.event(event)
        assert stand.view.instance(InstanceId(new)) is None
        stand.marathon.answer = lambda: None
        await stand.snapshot()
        stand.watch.event(event)
        assert stand.view.instance(InstanceId(new)) is not None


async def test_an_app_that_cannot_be_read_is_left_as_it_was_and_named() -> None:
    async with standing(apps=2, instances=8) as stand:
        torn = app_of(1)
        stand.marathon.unreadable = {torn: "instances: expected int"}
        with capture_logs() as lines:
            for _ in range(3):
                await stand.snapshot()
        assert stand.watch.unreadable == {torn: "instances: expected int"}
        assert [line["app"] for line in lines if line["event"].startswith("app unreadable")] == [torn]
        assert len(stand.view.instances_of(torn)) == 8
        assert (stand.view.brake, stand.view.held) == (None, frozenset())
        stand.marathon.unreadable = {}
        await stand.snapshot()
        assert stand.watch.unreadable == {}


async def test_an_event_between_two_steps_of_a_snapshot_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    async with standing(apps=400, instances=2) as stand:
        late = stand.marathon.listed[app_of(399)][0]
        ended = TaskReported(late.id, 1, late.task, late.app, State.DEAD, late.host, (), "", "t")
        in_steps = stand.view.merge_snapshot

        def interrupted(snapshot: Snapshot, monotonic: Callable[[], float]) -> Iterator[Dirty]:
            steps = in_steps(snapshot, monotonic)
            yield next(steps)
            yield stand.view.apply_event(ended, monotonic())
            yield from steps

        monkeypatch.setattr(stand.view, "merge_snapshot", interrupted)
        await stand.snapshot()
        seen = stand.view.instance(late.id)
        assert seen is not None
        assert seen.state is State.DEAD


async def test_what_was_passed_over_as_another_clusters_is_made_up_for() -> None:
    async with standing() as stand:
        answers: list[Exception] = [OtherCluster("another framework")]

        def answer() -> None:
            if answers:
                raise answers.pop()

        stand.marathon.answer = answer
        asked = stand.marathon.snapshots
        stand.watch.attached()
        await stand.until(lambda: stand.marathon.snapshots >= asked + 3)  # refused, merged, and one more


async def test_a_refresh_that_fails_brings_a_snapshot() -> None:
    async with standing() as stand:
        failures: list[Exception] = [Retryable("away"), KeyError("a defect")]
        for failure in list(failures):
            pending = [failure]

            def answer(pending: list[Exception] = pending) -> None:
                if pending:
                    raise pending.pop()

            stand.marathon.answer = answer
            asked = stand.marathon.snapshots
            stand.watch.mark(stand.view.apply_event(AppsChanged((app_of(1),)), CLOCK.monotonic()))
            await stand.until(lambda before=asked: stand.marathon.snapshots > before)


async def test_a_refresh_that_hangs_ends_at_an_attachment() -> None:
    async with standing() as stand:
        hangs = asyncio.Event()
        stand.marathon.answer = hangs.wait
        stand.watch.mark(stand.view.apply_event(AppsChanged((app_of(1),)), CLOCK.monotonic()))
        await stand.until(lambda: stand.marathon.asked == [app_of(1)])
        stand.marathon.answer = lambda: None
        await stand.snapshot()
        stand.watch.mark(stand.view.apply_event(AppsChanged((app_of(2),)), CLOCK.monotonic()))
        await stand.until(lambda: stand.marathon.asked == [app_of(1), app_of(2)])


async def test_a_defect_costs_one_snapshot_and_is_a_reason_not_to_be_ready() -> None:
    async with standing() as stand:
        defects: list[Exception] = [KeyError("a defect")]

        def answer() -> None:
            if defects:
                raise defects.pop()

        stand.marathon.answer = answer
        stand.watch.attached()
        await stand.until(lambda: "KeyError" in stand.watch.snapshot_problem)
        await stand.until(lambda: stand.watch.snapshot_problem == "")


async def test_the_brake_is_logged_when_it_goes_on_and_off_and_not_in_between() -> None:
    async with standing(apps=5, instances=4) as stand:
        whole = dict(stand.marathon.listed)
        with capture_logs() as lines:
            stand.marathon.listed.clear()
            for _ in range(3):
                await stand.snapshot()
            stand.marathon.listed.update(whole)
            await stand.snapshot()
        said = [line for line in lines if line["event"].startswith("brake")]
        assert [line["event"] for line in said] == ["brake is on", "brake is off"]
        assert "20 of 20" in said[0]["reason"]
        assert said[0]["held"] == 20


async def test_a_listing_that_fails_is_a_reason_not_to_be_ready_until_one_comes() -> None:
    async with standing() as stand:
        answers = iter([Retryable("Marathon is away")])

        def answer() -> None:
            for error in answers:
                raise error

        stand.marathon.answer = answer
        stand.watch.attached()
        await stand.until(lambda: stand.watch.snapshot_problem == "Marathon is away")
        await stand.until(lambda: stand.watch.snapshot_problem == "")


async def test_what_is_lost_and_each_attachment_are_interruptions_to_the_view() -> None:
    async with standing() as stand:
        for happens in (lambda: stand.watch.lost("overflow"), stand.watch.attached):
            now = CLOCK.monotonic()
            happens()
            assert stand.view._interrupted >= now
            await stand.snapshot()
