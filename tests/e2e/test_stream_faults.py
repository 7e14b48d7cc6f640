"""A stream that lies, stammers, stalls and breaks: it costs latency, never the end state."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest

from mooring.lab.handle import LabHandle
from mooring.lab.plan import LabPlan
from mooring.lab.proofs import answering, eventually, server_states
from mooring.lab.sample import WEB, Operator, app, vhost
from tests.e2e.evidence import DEADLINE_S, agreed, log_lines, log_size, metric, status

TORN = '{"eventType":"status_update_event","taskId":"shop_web.instance-12'
HALF_THE_LIMIT = 9 * 1024 * 1024  # the reader takes 16 MiB; the lab takes so much in one request


def framed(event: str, data: str) -> bytes:
    return f"event: {event}\r\ndata: {data}\r\n\r\n".encode()


UNREADABLE = {
    "torn": (framed("status_update_event", TORN), "json"),
    "not json": (framed("instance_changed_event", "<html>503</html>"), "json"),
    "binary": (b"event: status_update_event\r\ndata: \xff\xfe\x00\r\n\r\n", "json"),
    "nameless": (b"data: no JSON, and nobody knows its type\r\n\r\n", "json"),
    "a list": (framed("status_update_event", "[]"), "shape"),
    "no task": (framed("status_update_event", '{"eventType":"status_update_event"}'), "shape"),
    "no such state": (
        framed(
            "status_update_event",
            json.dumps({"taskId": "a.instance-b._app.1", "taskStatus": "TASK_ODD", "appId": "/a"}),
        ),
        "state",
    ),
}


async def raw(plan: LabPlan, content: bytes, *, last: bool = False) -> None:
    """Put bytes into the daemon's stream as they are."""
    url = f"{plan.marathon_url}/lab/streams/raw" + ("?last=true" if last else "")
    async with aiohttp.ClientSession() as session, session.post(url, data=content) as answer:
        assert answer.status == 200
        assert (await answer.json())["streams"] == 1


async def counted(plan: LabPlan, before: float, **labels: str) -> None:
    """Wait until one more piece of the stream was skipped for that reason."""

    async def ask() -> tuple[None, str]:
        now = await metric(plan, "mooring_events_skipped_total", **labels)
        return None, "" if now == before + 1 else f"{labels}: {now} instead of {before + 1}"

    await eventually(ask, DEADLINE_S)


async def attached(plan: LabPlan) -> tuple[None, str]:
    found = await status(plan)
    return None, "; ".join(found.readiness)


async def test_unreadable_events_are_counted_and_logged_and_the_stream_goes_on(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await eventually(lambda: attached(plan), DEADLINE_S)
    lost = await metric(plan, "mooring_stream_reconnects_total")
    logged = log_size(plan)
    for content, reason in UNREADABLE.values():
        before = await metric(plan, "mooring_events_skipped_total", reason=reason)
        await raw(plan, content)
        await counted(plan, before, reason=reason)
    told = [line for line in log_lines(plan, logged) if line["event"] == "event unreadable"]
    # The first of each kind is logged; a kind is reason and event type.
    assert {line["reason"] for line in told} == {reason for _, reason in UNREADABLE.values()}
    assert all((line["level"], line["count"]) == ("warning", 1) for line in told)

    await oversized(plan)
    await operator.deploy(app(WEB, 1, 8080))
    await agreed(handle, operator, [(WEB, 1)])
    assert await metric(plan, "mooring_stream_reconnects_total") == lost


async def oversized(plan: LabPlan) -> None:
    logged = log_size(plan)
    before = await metric(plan, "mooring_events_skipped_total", reason="oversized")
    await raw(plan, b"event: status_update_event\r\ndata: " + b"x" * HALF_THE_LIMIT)
    await raw(plan, b"y" * HALF_THE_LIMIT + b"\r\n\r\n")
    await counted(plan, before, reason="oversized")
    assert [line for line in log_lines(plan, logged) if line.get("reason") == "oversized"]


async def test_a_stream_that_ends_inside_an_event_is_taken_up_again(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await eventually(lambda: attached(plan), DEADLINE_S)
    lost = await metric(plan, "mooring_stream_reconnects_total")
    await raw(plan, framed("status_update_event", TORN)[:-4], last=True)
    await operator.deploy(app(WEB, 1, 8080))
    await agreed(handle, operator, [(WEB, 1)])
    await eventually(lambda: attached(plan), DEADLINE_S)
    assert await metric(plan, "mooring_stream_reconnects_total") == lost + 1


FAULTS: list[Mapping[str, Any]] = [
    {"action": "drop"},
    {"action": "drop", "fraction": 0.5},
    {"action": "duplicate"},
    {"action": "reorder", "window": 4, "seconds": 0.5},
    {"action": "delay", "seconds": 2.0, "fraction": 0.5},
]


async def test_lost_doubled_late_and_reordered_events_lead_to_the_same_end(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(app(WEB, 2, 8080))
    await agreed(handle, operator, [(WEB, 2)])
    for fault, instances in zip(FAULTS, (4, 2, 4, 2, 4), strict=True):
        await operator.send("POST", "/lab/faults", dict(fault))
        await operator.scale(WEB, instances)
        await agreed(handle, operator, [(WEB, instances)])
        (rule,) = await operator.send("GET", "/lab/faults")
        assert rule["hits"] > 0, fault
        await operator.send("DELETE", "/lab/faults")
    assert await metric(plan, "mooring_reconcile_errors_total") == 0


async def test_cut_and_stalled_streams_are_bridged_by_snapshots(
    plan: LabPlan, handle: LabHandle, operator: Operator
) -> None:
    await operator.deploy(app(WEB, 1, 8080))
    await agreed(handle, operator, [(WEB, 1)])
    await operator.send("POST", "/lab/streams/cut")
    await operator.scale(WEB, 2)
    await agreed(handle, operator, [(WEB, 2)])

    await operator.send("POST", "/lab/streams/stall")
    heard = await metric(plan, "mooring_events_total", result="decoded")
    await operator.scale(WEB, 3)
    await agreed(handle, operator, [(WEB, 3)])
    assert await metric(plan, "mooring_events_total", result="decoded") == heard
    await operator.send("POST", "/lab/streams/resume")
    await operator.scale(WEB, 1)
    await agreed(handle, operator, [(WEB, 1)])


@pytest.mark.parametrize("answer", [302, 503])
async def test_a_failover_takes_nothing_out_of_the_balancers(
    plan: LabPlan, handle: LabHandle, operator: Operator, answer: int
) -> None:
    await operator.deploy(app(WEB, 2, 8080))
    before = await agreed(handle, operator, [(WEB, 2)])
    leader = (await operator.send("GET", "/v2/leader"))["leader"]
    async with always_served(handle, {proof.address for proof in before}):
        await operator.send("POST", "/lab/failover", {"seconds": 3, "answer": answer})
        await eventually(lambda: led_by_another(operator, leader), DEADLINE_S)
        await eventually(lambda: attached(plan), DEADLINE_S)
        after = await agreed(handle, operator, [(WEB, 2)])
    assert {(proof.task, proof.address) for proof in after} == {
        (proof.task, proof.address) for proof in before
    }
    await operator.scale(WEB, 3)
    await agreed(handle, operator, [(WEB, 3)])


async def led_by_another(operator: Operator, leader: str) -> tuple[None, str]:
    with suppress(Exception):  # there is no leader now
        if (await operator.send("GET", "/v2/leader"))["leader"] != leader:
            return None, ""
    return None, f"{leader} has no successor yet"


@asynccontextmanager
async def always_served(handle: LabHandle, addresses: set[str]) -> AsyncIterator[None]:
    """Meanwhile every address is UP in HAProxy, and Nginx answers every request."""
    problems: list[str] = []
    looks = 0

    async def look() -> None:
        nonlocal looks
        while True:
            states = await server_states(handle)
            problems.extend(f"{one}: {states.get(one)}" for one in addresses if states.get(one) != "UP")
            page = await handle.via_nginx(vhost(WEB))
            problems.extend([f"nginx: {page.status}"] if page.status != 200 else [])
            looks += 1
            await asyncio.sleep(0.1)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    assert looks > 10
    assert problems == []
    assert len(await answering(handle.via_haproxy, vhost(WEB), len(addresses))) == len(addresses)
