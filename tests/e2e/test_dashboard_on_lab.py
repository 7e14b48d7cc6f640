"""What is watched, asked of a real Prometheus that scrapes a real daemon."""

from __future__ import annotations

import aiohttp

from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import eventually
from tests.unit import watched


async def _scraped(handle: LabHandle) -> tuple[None, str]:
    rows = await handle.prometheus("mooring_snapshot_age_seconds")
    return None, "" if rows else "the daemon has not been scraped since its first snapshot"


async def test_prometheus_accepts_every_expression(handle: LabHandle) -> None:
    await eventually(lambda: _scraped(handle), 40)
    for place, expression in watched.expressions():
        try:
            await handle.prometheus(expression)
        except Exception as error:
            raise AssertionError(f"{place}: {error}") from error


async def test_the_daemon_shows_every_series_that_is_there_from_the_start(handle: LabHandle) -> None:
    await eventually(lambda: _scraped(handle), 40)
    shown = {row["metric"]["__name__"] for row in await handle.prometheus('{job="mooring"}')}
    late = {  # these begin with the first of what they tell about
        "mooring_sink_unsettled",
        "mooring_reconcile_total",
        "mooring_events_total",
        "mooring_stream_last_event_timestamp_seconds",
        "mooring_drift",
        "mooring_verified_timestamp_seconds",
    }
    expected = {name for name in watched.series_shown() if name.startswith(("mooring_", "process_"))}
    assert {name for name in expected - shown if not name.endswith("_created")} <= late


async def test_prometheus_evaluates_the_alerts(plan: LabPlan, handle: LabHandle) -> None:
    await eventually(lambda: _scraped(handle), 40)
    url = f"http://127.0.0.1:{plan.prometheus_port}/api/v1/rules"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        groups = (await answer.json())["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in watched.alerts()}
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
