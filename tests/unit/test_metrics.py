"""The metrics: their names, and that each number comes from where it should."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry

from mooring.core.readmodel import EVERYTHING
from mooring.portal.metrics import Metrics
from mooring.portal.pulse import Pulse
from mooring.portal.turns import Turns
from tests.unit.fake_daemon import FakeDaemon
from tests.unit.fake_time import SteppedClock

# What dashboards and alert rules are written against: a name that goes from here breaks somebody's alert.
NAMES = {
    "mooring_reconcile_total", "mooring_reconcile_errors_total", "mooring_reconcile_time_seconds_bucket",
    "mooring_active_workers", "mooring_max_concurrent_reconciles", "mooring_workqueue_depth",
    "mooring_workqueue_adds_total", "mooring_workqueue_queue_duration_seconds_bucket",
    "mooring_workqueue_work_duration_seconds_bucket", "mooring_workqueue_unfinished_work_seconds",
    "mooring_workqueue_longest_running_processor_seconds", "mooring_workqueue_retries_total",
    "mooring_leader_election_master_status", "mooring_event_to_applied_seconds_bucket",
    "mooring_sink_outcomes_total", "mooring_sink_unsettled", "mooring_stream_connected",
    "mooring_stream_last_event_timestamp_seconds", "mooring_stream_reconnects_total", "mooring_events_total",
    "mooring_events_skipped_total", "mooring_snapshot_age_seconds", "mooring_snapshots_total",
    "mooring_leases", "mooring_pool_free", "mooring_pool_size", "mooring_refused_apps",
    "mooring_pool_utilisation_ratio", "mooring_pool_exhaustion_seconds", "mooring_pool_waiting",
    "mooring_brake_engaged", "mooring_paused", "mooring_paused_apps", "mooring_build_info",
    "mooring_event_loop_lag_seconds", "mooring_event_loop_turn_seconds_bucket",
    "mooring_event_loop_longest_turn_seconds", "mooring_stream_behind_events",
    "mooring_stream_behind_events_max", "mooring_brake_held_instances", "mooring_unready",
    "mooring_drift", "mooring_repairs_total", "mooring_verified_timestamp_seconds",
    "mooring_guard_dropped_packets_total", "process_resident_memory_bytes",
}  # fmt: skip


@pytest.fixture
def daemon() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def metrics(daemon: FakeDaemon, clock: SteppedClock) -> Metrics:
    metrics = Metrics(CollectorRegistry(), "1.2.3", ["network"], framer="python")
    metrics.collect_from(daemon, Pulse(clock), Turns())
    return metrics


def value(metrics: Metrics, name: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"mooring_{name}", labels)


def test_names(metrics: Metrics) -> None:
    metrics.reconciled("success", 0.1)
    metrics.snapshot_taken("merged")
    metrics.guards_dropped("h1", "arp", 3)
    metrics.verified(1_700_000_000.0, {("network", "missing"): 1})
    shown = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert shown >= NAMES


def test_what_runs_is_shown(metrics: Metrics) -> None:
    assert value(metrics, "build_info", version="1.2.3", framer="python") == 1


def test_no_two_registries_share_anything() -> None:
    first, second = (Metrics(CollectorRegistry(), "1.2.3", framer="c") for _ in range(2))
    first.applied("dns", 0.2)
    assert value(second, "event_to_applied_seconds_count", sink="dns") is None


def test_the_series_of_configured_sinks_exist_from_the_start(metrics: Metrics) -> None:
    assert value(metrics, "event_to_applied_seconds_count", sink="network") == 0
    assert value(metrics, "sink_outcomes_total", sink="network", outcome="refused") == 0
    assert value(metrics, "reconcile_errors_total", controller="instance") == 0


def test_what_happens_is_counted(metrics: Metrics) -> None:
    metrics.reconciled("success", 0.3)
    metrics.reconciled("error", 0.3)
    metrics.work_started(0.05)
    metrics.work_ended(2.0)
    metrics.applied("network", 0.4)
    metrics.sink_answered("network", "done")
    assert value(metrics, "sink_outcomes_total", sink="network", outcome="done") == 1
    assert value(metrics, "reconcile_total", controller="instance", result="success") == 1
    assert value(metrics, "reconcile_errors_total", controller="instance") == 1
    assert value(metrics, "reconcile_time_seconds_sum", controller="instance") == pytest.approx(0.6)
    assert value(metrics, "workqueue_queue_duration_seconds_sum", name="instance") == pytest.approx(0.05)
    assert value(metrics, "workqueue_work_duration_seconds_sum", name="instance") == pytest.approx(2.0)
    assert value(metrics, "event_to_applied_seconds_bucket", sink="network", le="0.25") == 0
    assert value(metrics, "event_to_applied_seconds_bucket", sink="network", le="0.5") == 1


def test_what_is_comes_from_the_read_model_at_each_scrape(metrics: Metrics, daemon: FakeDaemon) -> None:
    assert value(metrics, "workqueue_depth", name="instance") == 5
    assert value(metrics, "active_workers", controller="instance") == 2
    assert value(metrics, "workqueue_unfinished_work_seconds", name="instance") == 2.5
    assert value(metrics, "workqueue_longest_running_processor_seconds", name="instance") == 2.0
    assert value(metrics, "workqueue_adds_total", name="instance") == 11
    assert value(metrics, "workqueue_retries_total", name="instance") == 4
    assert value(metrics, "stream_reconnects_total") == 2
    assert value(metrics, "events_total", type="status_update_event", result="applied") == 9
    assert (value(metrics, "stream_behind_events"), value(metrics, "stream_behind_events_max")) == (3, 70)
    assert value(metrics, "brake_held_instances") == 6
    assert (value(metrics, "unready", part="brake"), value(metrics, "unready", part="stream")) == (1, 0)
    assert value(metrics, "sink_unsettled", sink="haproxy") == 1
    assert value(metrics, "leases", pool="blue", state="bound") == 20
    assert value(metrics, "leases", pool="blue", state="stranded") == 0
    assert value(metrics, "pool_free", pool="blue") == 1000
    assert (value(metrics, "paused"), value(metrics, "refused_apps")) == (0, 0)
    daemon.paused = {EVERYTHING, "/shop"}
    daemon.refused = {"/bad": "no"}
    assert (value(metrics, "paused"), value(metrics, "paused_apps")) == (1, 1)
    assert value(metrics, "refused_apps") == 1


def test_the_lag_shows_while_the_loop_still_stands(metrics: Metrics, clock: SteppedClock) -> None:
    assert value(metrics, "event_loop_lag_seconds") == 0
    clock.step(5.5)
    assert math.isclose(value(metrics, "event_loop_lag_seconds") or 0, 5.0)
