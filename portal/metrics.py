"""What Prometheus sees, named as controller-runtime names it.

Two kinds of numbers.  What *happens* (a reconcile ended, a sink confirmed a change) is told through a
method named after it, at the moment it happens.  What *is* (queue depth, free addresses, age of the
snapshot), and what others count already (events by type), is read from the read model at the moment of a
scrape, so no gauge can be left behind by a code path that forgot to set it.

No label ever carries an instance, a task or an address: the number of series stays that of the sinks,
pools, hosts and event types, whatever Marathon runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mooring.core.model import LeaseState
from mooring.core.readmodel import EVERYTHING, Overview, PoolRow, ReadModel, Vitals
from mooring.portal.pulse import Pulse
from mooring.portal.turns import BOUNDS_S, Turns

CONTROLLER = "instance"  # the one kind of key that is reconciled
_APPLIED_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
_WORK_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_QUEUE_BUCKETS = (0.0001, 0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


class Metrics:
    """Told what happens, and shows it in the registry that was given."""

    def __init__(
        self, registry: CollectorRegistry, version: str, sinks: Iterable[str] = (), *, framer: str
    ) -> None:
        """`sinks`: names of the configured ones, so that their series exist before the first change.

        `framer`: which implementation cuts the stream, "c" or "python".
        """
        self.registry = registry
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._counters(registry)
        self._histograms(registry)
        Gauge("mooring_build_info", "Always 1; the labels say what runs.", ["version", "framer"],
              registry=registry).labels(version, framer).set(1)  # fmt: skip
        Gauge("mooring_leader_election_master_status", "1 on the daemon that leads.", ["name"],
              registry=registry).labels("mooring").set(1)  # fmt: skip
        for lone in (self._errors, self._reconcile_time, self._queued, self._worked):
            lone.labels(CONTROLLER)
        for kind in ("port", "device"):
            self._collected.labels(kind)
        for sink in sinks:
            self._applied.labels(sink)
            for outcome in ("done", "retry", "refused"):
                self._outcomes.labels(sink, outcome)
            for kind in ("missing", "different", "surplus"):
                self._repairs.labels(sink, kind)

    def _counters(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mooring_{name}", text, labels, registry=registry)

        self._reconciles = counter("reconcile_total", "Reconciles by result.", "controller", "result")
        self._errors = counter("reconcile_errors_total", "Reconciles that met a defect.", "controller")
        self._outcomes = counter("sink_outcomes_total", "Answers of the sinks.", "sink", "outcome")
        self._conflicts = counter("address_conflicts_total", "Addresses on which somebody else answered.")
        self._repairs = counter("repairs_total", "Repairs of what was found not to be as it shall.",
                                "sink", "kind")  # fmt: skip
        self._drift = Gauge("mooring_drift", "What the last look found not to be as it shall.",
                            ["sink", "kind"], registry=registry)  # fmt: skip
        self._verified = Gauge("mooring_verified_timestamp_seconds",
                               "When the sinks were last compared with the records.", ["sink"],
                               registry=registry)  # fmt: skip
        self._dropped = counter("guard_dropped_packets_total", "Packets that the guards of ports dropped.",
                                "host", "reason")  # fmt: skip
        self._collected = counter("ports_collected_total", "Dead ports, and devices without one, removed.",
                                  "kind")  # fmt: skip
        self._snapshots = counter("snapshots_total", "Full listings asked for, by result.", "result")

    def _histograms(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"mooring_{name}", text, [label], buckets=buckets, registry=registry)

        self._reconcile_time = histogram(
            "reconcile_time_seconds", "Time of one reconcile.", "controller", _WORK_BUCKETS
        )
        self._queued = histogram(
            "workqueue_queue_duration_seconds", "Time a key waited for a worker.", "name", _QUEUE_BUCKETS
        )
        self._worked = histogram(
            "workqueue_work_duration_seconds", "Time a worker had a key.", "name", _WORK_BUCKETS
        )
        self._applied = histogram(
            "event_to_applied_seconds", "From hearing of a change to its confirmation by the sink.", "sink",
            _APPLIED_BUCKETS,
        )  # fmt: skip

    # -- what happened

    def reconciled(self, result: str, seconds: float) -> None:
        """A reconcile ended: "success", "requeue", "requeue_after", "refused" or "error"."""
        self._reconciles.labels(CONTROLLER, result).inc()
        self._reconcile_time.labels(CONTROLLER).observe(seconds)
        if result == "error":
            self._errors.labels(CONTROLLER).inc()

    def work_started(self, waited_s: float) -> None:
        """A worker took a key that had waited so long."""
        self._queued.labels(CONTROLLER).observe(waited_s)

    def work_ended(self, worked_s: float) -> None:
        """A worker gave a key back after so long."""
        self._worked.labels(CONTROLLER).observe(worked_s)

    def applied(self, sink: str, latency_s: float) -> None:
        """A sink confirmed a change that we heard of `latency_s` seconds ago."""
        self._applied.labels(sink).observe(latency_s)

    def sink_answered(self, sink: str, outcome: str) -> None:
        """A sink answered a change: "done", "retry", "refused" or "conflict"."""
        self._outcomes.labels(sink, outcome).inc()

    def address_conflict(self) -> None:
        """An instance lost its new address because somebody else answers on it."""
        self._conflicts.inc()

    def snapshot_taken(self, result: str) -> None:
        """A full listing was asked for: "merged", "discarded" or "failed"."""
        self._snapshots.labels(result).inc()

    def repaired(self, sink: str, kind: str) -> None:
        """Something that was "missing", "different" or "surplus" is being put right."""
        self._repairs.labels(sink, kind).inc()

    def port_collected(self, kind: str) -> None:
        """A dead "port", or a "device" that had none, was removed from its host."""
        self._collected.labels(kind).inc()

    def verified(self, at: float, found: Mapping[tuple[str, str], int]) -> None:
        """A look at the sinks ended at that time (Unix seconds): how much was found, by sink and kind."""
        for (sink, kind), count in found.items():
            self._drift.labels(sink, kind).set(count)
            self._verified.labels(sink).set(at)

    def guards_dropped(self, host: str, reason: str, packets: int) -> None:
        """A host has told how many packets of its containers were dropped since it told last; may be 0."""
        self._dropped.labels(host, reason).inc(packets)

    # -- what is

    def collect_from(self, model: ReadModel, pulse: Pulse, turns: Turns) -> None:
        """From now on every scrape also shows what the read model and the loop's two watchers say."""
        self.registry.register(_Gauges(model, pulse, turns))


class _Gauges(Collector):
    """Reads the read model at every scrape."""

    def __init__(self, model: ReadModel, pulse: Pulse, turns: Turns) -> None:
        self._model = model
        self._pulse = pulse
        self._turns = turns

    def describe(self) -> list[Metric]:
        """Nothing: the registry must not ask the daemon while that is still being put together."""
        return []

    def collect(self) -> Iterator[Metric]:
        vitals, overview = self._model.vitals(), self._model.overview()
        yield from _work(vitals)
        yield from _stream(vitals)
        yield from _daemon(overview)
        yield from _readiness(vitals)
        yield from _pools(self._model.pools())
        yield _gauge("refused_apps", "Apps whose labels are refused.", len(self._model.refusals()))
        yield _gauge("event_loop_lag_seconds", "How late the event loop is.", self._pulse.lag_s)
        yield from _loop(self._turns)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"mooring_{name}", text, value=value)


def _work(vitals: Vitals) -> Iterator[Metric]:
    queue = {
        "workqueue_depth": ("Keys that wait for a worker.", float(vitals.queue_depth)),
        "workqueue_unfinished_work_seconds": ("Time spent on keys in work.", sum(vitals.running_s)),
        "workqueue_longest_running_processor_seconds": (
            "Time of the oldest work.", max(vitals.running_s, default=0.0)),
    }  # fmt: skip
    workers = {
        "active_workers": ("Workers that have a key.", float(len(vitals.running_s))),
        "max_concurrent_reconciles": ("Workers at most.", float(vitals.workers)),
    }
    for label, group in (("name", queue), ("controller", workers)):
        for name, (text, value) in group.items():
            family = GaugeMetricFamily(f"mooring_{name}", text, labels=[label])
            family.add_metric([CONTROLLER], value)
            yield family
    counted = {
        "workqueue_adds": ("Keys added to the queue.", vitals.adds),
        "workqueue_retries": ("Keys put back to be tried again.", vitals.retries),
    }
    for name, (text, count) in counted.items():
        counter = CounterMetricFamily(f"mooring_{name}", text, labels=["name"])
        counter.add_metric([CONTROLLER], count)
        yield counter
    unsettled = GaugeMetricFamily("mooring_sink_unsettled", "Instances not in step there.", labels=["sink"])
    for sink, count in vitals.unsettled.items():
        unsettled.add_metric([sink], count)
    yield unsettled


def _stream(vitals: Vitals) -> Iterator[Metric]:
    yield _gauge("stream_connected", "1 while attached to the event stream.", vitals.attached)
    if vitals.last_event_at is not None:
        yield _gauge("stream_last_event_timestamp_seconds", "When an event was last heard on the stream.",
                     vitals.last_event_at)  # fmt: skip
    yield CounterMetricFamily(
        "mooring_stream_reconnects", "Times the event stream was lost.", value=vitals.reconnects
    )
    behind = "Events that were read and are not merged yet"
    yield _gauge("stream_behind_events", f"{behind}.", vitals.behind)
    yield _gauge("stream_behind_events_max", f"{behind}: the most since the start.", vitals.max_behind)
    events = CounterMetricFamily("mooring_events", "Events of the stream.", labels=["type", "result"])
    for result, counts in vitals.events.items():
        for type_, count in counts.items():
            events.add_metric([type_, result], count)
    yield events
    skipped = CounterMetricFamily("mooring_events_skipped", "Unreadable pieces of the stream.",
                                  labels=["reason"])  # fmt: skip
    for reason, count in vitals.skipped.items():
        skipped.add_metric([reason], count)
    yield skipped


def _daemon(overview: Overview) -> Iterator[Metric]:
    if overview.snapshot_age_s is not None:
        yield _gauge("snapshot_age_seconds", "Age of the newest full listing.", overview.snapshot_age_s)
    yield _gauge("brake_engaged", "1 while absent instances are held.", overview.brake is not None)
    yield _gauge("paused", "1 while effects of all apps wait.", EVERYTHING in overview.paused)
    apps = sum(app != EVERYTHING for app in overview.paused)
    yield _gauge("paused_apps", "Apps whose effects wait.", apps)


def _readiness(vitals: Vitals) -> Iterator[Metric]:
    yield _gauge("brake_held_instances", "Absent instances that are held.", vitals.held)
    unready = GaugeMetricFamily("mooring_unready", "1 while this is why /readyz says no.", labels=["part"])
    for part, in_the_way in vitals.unready.items():
        unready.add_metric([part], in_the_way)
    yield unready
    yield _gauge("rebuild_needed", "1 while an operator has to look at `mooring rebuild`.",
                 vitals.rebuild_needed)  # fmt: skip
    hosts = GaugeMetricFamily("mooring_hosts", "Hosts of the inventory by what was heard last.",
                              labels=["state"])  # fmt: skip
    for state, count in vitals.hosts.items():
        hosts.add_metric([state], count)
    yield hosts


def _loop(turns: Turns) -> Iterator[Metric]:
    text = "Time of one turn of the event loop, during which everything else waits."
    counts = itertools.accumulate(turns.counts)
    bounds = [*map(str, BOUNDS_S), "+Inf"]
    yield HistogramMetricFamily(
        "mooring_event_loop_turn_seconds", text, list(zip(bounds, counts, strict=True)), turns.total_s
    )
    yield _gauge("event_loop_longest_turn_seconds", "The longest since the start.", turns.longest_s)


def _pools(pools: Sequence[PoolRow]) -> Iterator[Metric]:
    leases = GaugeMetricFamily("mooring_leases", "Addresses that are not free.", labels=["pool", "state"])
    free = GaugeMetricFamily("mooring_pool_free", "Addresses that can be given out.", labels=["pool"])
    size = GaugeMetricFamily("mooring_pool_size", "Assignable addresses.", labels=["pool"])
    used = GaugeMetricFamily("mooring_pool_utilisation_ratio", "Part that cannot be given out now, 0 to 1.",
                             labels=["pool"])  # fmt: skip
    left = GaugeMetricFamily("mooring_pool_exhaustion_seconds", "Until it is full, at the last hour's rate.",
                             labels=["pool"])  # fmt: skip
    waiting = GaugeMetricFamily("mooring_pool_waiting", "Instances in line for an address.", labels=["pool"])
    for pool in pools:
        free.add_metric([pool.name], pool.free)
        size.add_metric([pool.name], pool.size)
        used.add_metric([pool.name], 1 - pool.free / pool.size if pool.size else 1.0)
        left.add_metric([pool.name], math.inf if pool.exhausted_in_s is None else pool.exhausted_in_s)
        waiting.add_metric([pool.name], pool.waiting)
        for state in LeaseState:
            leases.add_metric([pool.name, state.value], pool.leases.get(state.value, 0))
    yield from (leases, free, size, used, left, waiting)
