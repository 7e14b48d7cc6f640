"""`SinkState`: what is wanted, what is known to be there, and what may be there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mooring.core.model import SinkState
from mooring.core.specs import NameSpec, Spec, decode_spec, encode_spec

A, B, C = (NameSpec(f"{letter}.test", "10.0.0.1", 5) for letter in "abc")


def test_a_confirmed_want_is_settled() -> None:
    state = SinkState().want(A)
    assert not state.settled
    assert state.confirmed(state.generation, A).settled


def test_an_unconfirmed_want_becomes_residue() -> None:
    state = SinkState().want(A).want(B)
    assert state.residue == (A,)
    assert set(state.shown) == {A}
    assert state.confirmed(state.generation, B) == SinkState(B, B, (), state.generation)


def test_wanting_nothing_again_is_not_settled_while_something_may_be_out_there() -> None:
    state = SinkState().want(A).want(None)
    assert not state.settled
    assert state.confirmed(state.generation, None).settled


def test_an_old_outcome_proves_nothing() -> None:
    first = SinkState().want(A)
    second = first.want(B)
    assert second.confirmed(first.generation, A) == second


def test_the_same_want_changes_nothing() -> None:
    state = SinkState().want(A)
    assert state.want(A) is state


def test_a_removal_that_may_have_happened_is_not_forgotten() -> None:
    shown = SinkState(A, A)
    back = shown.want(None).want(A)
    assert not back.settled
    assert back.confirmed(back.generation, A).settled


def test_what_is_in_doubt_is_made_certain_again_under_a_new_generation() -> None:
    state = SinkState(A, A, (), 4)
    doubted = state.doubted()
    assert not doubted.settled
    assert doubted.applied == A, "whoever asks whether it ever was shown gets the same answer as before"
    assert doubted.shown == (A,)
    assert doubted.confirmed(4, A) == doubted, "an earlier outcome does not take the doubt away"
    assert doubted.confirmed(5, A) == SinkState(A, A, (), 5)


def test_only_what_is_settled_can_come_into_doubt() -> None:
    for state in (SinkState(), SinkState().want(A), SinkState(A, A).want(B), SinkState(A, A).doubted()):
        assert state.doubted() is state


STEPS = st.lists(st.one_of(st.sampled_from([A, B, C, None]), st.just("done"), st.just("crash")), max_size=20)


@given(STEPS)
def test_what_is_called_settled_is_true(steps: list[object]) -> None:
    """A model of the outside: each wish takes effect before its confirmation, and a crash loses only that."""
    state, outside = SinkState(), frozenset[Spec]()
    for step in steps:
        if step in ("done", "crash"):
            outside = frozenset({state.wanted} - {None})  # type: ignore[arg-type]
            if step == "done":
                state = state.confirmed(state.generation, state.wanted)
        else:
            state = state.want(step)  # type: ignore[arg-type]
        assert outside <= {*state.shown, state.wanted}
        assert not state.settled or outside == {state.wanted} - {None}


@given(st.sampled_from([A, B, C]))
def test_specs_survive_the_store(spec: Spec) -> None:
    assert decode_spec(encode_spec(spec)) == spec
