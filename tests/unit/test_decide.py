"""The case table of `decide`, cell by cell."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mooring.controller.decide import Decision, decide
from mooring.core.model import AppId, Binding, BindingId, HostName, Instance, InstanceId, State, TaskId

N, C, R, H, D, K = (
    Decision.NOTHING,
    Decision.CREATE,
    Decision.RESTART,
    Decision.HEALTH,
    Decision.DRAIN,
    Decision.KILL,
)


def instance(state: State, incarnation: int = 2) -> Instance:
    task = TaskId(f"a.instance-1._app.{incarnation}")
    return Instance(InstanceId("a.instance-1"), incarnation, task, AppId("/a"), HostName("h"), state)


def binding(incarnation: int, departing: bool = False) -> Binding:
    key = "a.instance-1"
    task = TaskId(f"{key}._app.{incarnation}")
    return Binding(
        BindingId(key), AppId("/a"), InstanceId(key), incarnation, task, HostName("h"), departing=departing
    )


TABLE = {
    #                  none same older departing
    None: (N, K, K, K),
    State.GONE: (N, K, K, K),
    State.INACTIVE: (N, K, K, K),
    State.STARTING: (N, H, D, K),
    State.RUNNING: (C, H, R, R),
    State.KILLING: (N, D, D, K),
    State.UNREACHABLE: (N, D, D, K),
    State.DEAD: (N, D, D, K),
}


@pytest.mark.parametrize("state", TABLE)
def test_every_cell(state: State | None) -> None:
    observed = instance(state) if state else None
    columns = (None, binding(2), binding(1), binding(2, departing=True))
    assert tuple(decide(observed, bound) for bound in columns) == TABLE[state]


def test_without_a_host_a_running_instance_is_one_that_starts() -> None:
    observed = replace(instance(State.RUNNING), host=None)
    columns = (None, binding(2), binding(1), binding(2, departing=True))
    assert tuple(decide(observed, bound) for bound in columns) == TABLE[State.STARTING]


def test_the_same_incarnation_on_another_host_has_moved() -> None:
    observed = replace(instance(State.RUNNING), host=HostName("elsewhere"))
    assert decide(observed, binding(2)) is R


def test_every_state_has_a_row() -> None:
    assert {state for state in TABLE if state} == set(State)


@pytest.mark.parametrize("departing", [False, True])
def test_news_of_an_earlier_incarnation_change_nothing(departing: bool) -> None:
    for state in set(State) - {State.GONE, State.INACTIVE}:
        assert decide(instance(state, 1), binding(2, departing)) is Decision.NOTHING
