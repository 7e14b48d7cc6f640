"""Listings that lack apps, in the whole controller: no address is lost, and what an operator may release."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.controller.engine import Engine
from mooring.core.errors import Refused
from mooring.core.model import AppId, LeaseState
from tests.sim.apps import SimApp
from tests.sim.scenarios import POOL, begin, by_instance, end, kill_the_daemon
from tests.sim.story import Story, tell

SNAPSHOT_S = 40.0  # by then there was another one
LONG_S = 200.0  # several snapshots, and more than twice what it takes to confirm an absence


def engine_of(story: Story) -> Engine:
    assert story.life is not None
    assert story.life.engine is not None
    return story.life.engine


def seats(story: Story, app: str) -> dict[str, str]:
    """The leases of an app: address and state."""
    assert story.book is not None
    return {lease.address: lease.state.value for lease in story.book.by_app(AppId(app))}


def hide(story: Story, monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """From now on no listing has these apps."""
    marathon, whole = story.marathon, story.marathon.apps

    def without(kind: str, *asked: str) -> bytes:
        marathon.apps = {id: app for id, app in whole.items() if id not in hidden}
        try:
            return getattr(type(marathon), kind)(marathon, *asked)  # type: ignore[no-any-return]
        finally:
            marathon.apps = whole

    for kind in ("apps_json", "app_json"):
        monkeypatch.setattr(marathon, kind, lambda *asked, kind=kind: without(kind, *asked))


async def begin_with_an_idle_seat(story: Story) -> None:
    await begin(story, SimApp("/web", 6, POOL), SimApp("/db", 5, POOL), SimApp("/rest", 1, POOL))
    await story.marathon.scale("/rest", 0)
    await story.settles()


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("hidden", [("/db", "/rest"), ("/web", "/db", "/rest")], ids=["half", "empty"])
def test_no_address_is_lost(
    hidden: tuple[str, ...], restarted: bool, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(story: Story) -> None:
        await begin_with_an_idle_seat(story)
        before, rest = by_instance(story), seats(story, "/rest")
        with monkeypatch.context() as patch:
            hide(story, patch, *hidden)
            if restarted:
                kill_the_daemon(story)
            await story.passes(LONG_S)
            await story.marathon.fail(next(one.id for one in story.marathon.of("/db")))
            await story.passes(LONG_S)
            assert engine_of(story).view.brake is not None
        await story.passes(SNAPSHOT_S)
        assert engine_of(story).view.brake is None  # of itself: no operator has looked yet
        await story.settles()
        assert (by_instance(story), seats(story, "/rest")) == (before, rest)
        assert set(rest.values()) == {LeaseState.IDLE.value}
        end(story)

    tell(3, directory, act=act)


def test_an_operator_releases_no_more_than_was_shown(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(story: Story) -> None:
        await begin_with_an_idle_seat(story)
        kept = seats(story, "/web")
        with monkeypatch.context() as patch:
            hide(story, patch, "/db", "/rest")
            await story.passes(LONG_S)
            engine = engine_of(story)
            held = engine.condition.overview().held
            assert held == 5 + 2
            with pytest.raises(Refused, match="7 instances and apps are held by now, not 6"):
                await engine.release_brake(held - 1)
            assert len(engine.view.held) == 5
            await engine.release_brake(held)
            await story.passes(20.0)
            assert {*seats(story, "/db").values(), *seats(story, "/rest").values()} <= {"cooling"}
            assert seats(story, "/web") == kept
            with pytest.raises(Refused, match="nothing to release"):
                await engine.release_brake(held)
        end(story)

    tell(3, directory, act=act)
