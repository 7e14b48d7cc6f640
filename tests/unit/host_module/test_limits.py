"""What limits are made of, decided without a switch or a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host.errors import Refused, Retry
from mooring.playbooks.module_utils.mooring_host.limits import Book, Limit, Rates
from mooring.playbooks.module_utils.mooring_host.meters import (
    LEAST_BURST_KBIT,
    Meter,
    free_number,
    meter_for,
    read_meters,
)
from mooring.playbooks.module_utils.mooring_host.orders import Attach, parse
from mooring.playbooks.module_utils.mooring_host.qdiscs import shape_for

DUMP = """OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):
meter=7 kbps burst bands=
type=drop rate=20000 burst_size=2000
meter=8 pktps bands=
type=drop rate=10
meter=9 kbps burst stats bands=
type=drop rate=64 burst_size=512
type=drop rate=128 burst_size=512
"""


def attach(**changes: Any) -> Attach:
    order = {"op": "attach", "id": "b", "task_id": "t", "app": "/a", "slot": 0, "instance": "i",
             "address": "10.0.0.1", "prefix": 24, "generation": 1, **changes}  # fmt: skip
    parsed = parse(order)
    assert isinstance(parsed, Attach)
    return parsed


def test_rates_are_optional_and_checked_again_on_the_host() -> None:
    assert (attach().rate_out, attach(rate_in=None).rate_in) == (None, None)
    assert attach(rate_out=64_000, rate_in=100_000_000_000).rate_out == 64_000
    for wrong in (63_999, 100_000_000_001, "10M", True, 1e6):
        with pytest.raises(Refused, match="rate_out"):
            attach(rate_out=wrong)


def test_the_buckets_hold_a_part_of_the_rate_and_some_frames_at_least() -> None:
    assert shape_for(80_000_000, 1500) == shape_for(80_000_000, 1400)
    assert (shape_for(80_000_000, 1500).rate, shape_for(80_000_000, 1500).queue) == (10_000_000, 1_000_000)
    assert shape_for(64_000, 1500).queue == 16 * 1518
    assert meter_for(20_000_000) == Meter(20_000, 2_000)
    assert meter_for(64_001) == Meter(65, LEAST_BURST_KBIT)


def test_meters_are_read_with_those_of_others() -> None:
    assert read_meters(DUMP) == {7: Meter(20_000, 2_000), 8: None, 9: None}
    assert read_meters("OFPST_METER_CONFIG reply (OF1.3) (xid=0x2):\n") == {}


def test_a_meters_number_is_its_ports_own_and_free() -> None:
    first = free_number("p1", (), 1000)
    assert first == free_number("p1", (), 1000)
    assert 1 <= first <= 1000
    assert free_number("p1", {first}, 1000) == first % 1000 + 1
    assert free_number("p1", set(range(1, 1000)), 1000) == 1000
    with pytest.raises(Retry, match="no OpenFlow meter is free"):
        free_number("p1", set(range(1, 1001)), 1000)


def limit(uuid: str, port: str, *, out: int | None = 1, held: bool = True) -> Limit:
    return Limit(uuid, port, Rates(out, out), 5, held)


def test_a_record_is_dead_without_port_or_rates_or_beside_the_one_in_use() -> None:
    known = {
        "lives": [limit("1", "lives")],
        "gone": [limit("2", "gone")],
        "void": [limit("3", "void", out=None, held=False)],
        "twice": [limit("4", "twice", held=False), limit("5", "twice")],
        "let go": [limit("6", "let go", held=False)],
    }
    book = Book("br", "mooring", known)
    dead = book.dead(["lives", "void", "twice", "let go"])
    assert [each.uuid for each in dead] == ["2", "3", "4"]
    kept = book.limit_of("twice")
    assert kept is not None
    assert kept.uuid == "5"
    assert book.delete(dead)[0]["where"] == [["_uuid", "==", ["uuid", "2"]]]


def test_a_record_is_made_changed_and_made_void() -> None:
    book = Book("br", "mooring", {"p": [limit("1", "p")]})
    insert, refer = book.write("new", Rates(1000, None), 9)
    assert (insert["op"], refer["row"]["qos"]) == ("insert", ["named-uuid", insert["uuid-name"]])
    assert insert["row"]["type"] == "linux-noop", "else the switch daemon removes our queueing discipline"
    assert ["mooring-rate-out", "1000"] in insert["row"]["external_ids"][1]
    other, _ = book.write("newer", Rates(1000, None), 10)
    assert other["uuid-name"] != insert["uuid-name"]
    update, refer = book.write("p", Rates(2000, 2000), 5)
    assert (update["op"], refer["row"]["qos"]) == ("update", ["uuid", "1"])
    void, refer = book.write("p", Rates(), 5)
    assert refer["row"]["qos"] == ["set", []]
    assert ["mooring-meter", "5"] in void["row"]["external_ids"][1], "else nobody knows the meter any more"
