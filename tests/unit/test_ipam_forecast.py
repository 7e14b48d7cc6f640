"""When a pool will be full: a trend, and nothing where there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.ipam.forecast import Trend, seconds_left


def straight(
    slope: float, begin: float = 10.0, count: int = 20, step: float = 60.0
) -> list[tuple[float, float]]:
    return [(1000.0 + n * step, begin + slope * n * step) for n in range(count)]


def test_a_straight_rise_ends_where_the_line_meets_the_size() -> None:
    samples = straight(0.01)  # 21.4 taken at the end
    assert seconds_left(samples, 121) == pytest.approx((121 - samples[-1][1]) / 0.01)


@pytest.mark.parametrize("slope", [0.0, -0.01])
def test_what_does_not_rise_never_ends(slope: float) -> None:
    assert seconds_left(straight(slope, begin=100.0), 200) is None


@pytest.mark.parametrize(("taken", "left"), [(100, 0.0), (101, 0.0), (99, None)])
def test_a_full_pool_is_exhausted_now_whatever_the_trend(taken: int, left: float | None) -> None:
    assert seconds_left([(float(n), taken) for n in range(9)], 100) == left
    assert seconds_left([(1.0, taken)], 100) == left


def test_too_little_is_known_at_first() -> None:
    assert seconds_left([], 10) is None
    assert seconds_left(straight(0.01, count=4), 100) is None
    assert seconds_left(straight(0.01, count=5), 100) is not None
    assert seconds_left([(5.0, n) for n in range(9)], 100) is None  # all at one moment


def test_a_single_restart_is_no_trend() -> None:
    flat = [(60.0 * n, 50) for n in range(60)]
    spike = [*flat[:30], (30 * 60.0, 55), *flat[31:]]
    left = seconds_left(spike, 60)
    assert left is None or left > 86_400


@given(st.floats(0.001, 10.0), st.integers(1, 1000), st.floats(0, 1e9))
def test_the_moment_does_not_matter_only_the_distance(slope: float, room: int, began: float) -> None:
    samples = [(began + 10.0 * n, slope * 10.0 * n) for n in range(10)]
    left = seconds_left(samples, int(samples[-1][1]) + room)
    assert left is not None
    assert left == pytest.approx((int(samples[-1][1]) + room - samples[-1][1]) / slope, rel=1e-3)


def test_a_trend_keeps_a_window_of_samples() -> None:
    trend = Trend(window_s=600.0)
    for second in range(0, 600, 2):
        trend.observe(float(second), 50 - second // 20)
    assert trend.seconds_left(600.0, 20, 100) is None  # it fell all the time
    for second in range(600, 1300, 2):
        trend.observe(float(second), 20 + (second - 600) // 10)
    # The window has forgotten the fall: one each ten seconds, 90 taken at 1300.
    assert trend.seconds_left(1300.0, 90, 100) == pytest.approx(100.0, rel=0.1)
    assert trend.seconds_left(1300.0, 100, 100) == 0.0


def test_a_trend_does_not_grow_with_the_looks() -> None:
    often, rarely = Trend(window_s=600.0), Trend(window_s=600.0)
    for tenth in range(6000):
        often.observe(tenth / 10, tenth // 100)
        if tenth % 100 == 0:
            rarely.observe(tenth / 10, tenth // 100)
    assert often.seconds_left(600.0, 60, 100) == pytest.approx(rarely.seconds_left(600.0, 60, 100))
