"""A label about bandwidth, on its way to a port and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mooring.controller.drift import told
from mooring.core.bandwidth import HIGHEST, LOWEST, bandwidth_text, parse_bandwidth
from mooring.core.errors import LabelRefused
from mooring.core.labels import Claim, parse_claim
from mooring.core.model import App, AppId, SinkState
from mooring.core.sink import Observation
from mooring.core.specs import PortSpec, decode_spec, encode_spec
from mooring.handlers.hosts import as_marked, port_key, port_marks
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.handlers.wants import NETWORK, Wiring, wants_of
from tests.unit.test_drift import settled, words
from tests.unit.test_labels import RULES
from tests.unit.test_wants import binding, facts


def claim(text: str, **labels: str) -> Claim:
    wished = {"MOORING_POOL": "shop", "MOORING_BANDWIDTH": text, **labels}
    return parse_claim(App(AppId("/shop/web"), 1, wished), RULES)


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("10M", (10_000_000, 10_000_000)),
        ("10M/50M", (10_000_000, 50_000_000)),
        ("64k/100G", (64_000, 100_000_000_000)),
        ("1500k", (1_500_000, 1_500_000)),
    ],
)
def test_one_rate_is_both_directions_and_two_are_from_and_to(text: str, rates: tuple[int, int]) -> None:
    got = claim(text)
    assert (got.rate_out, got.rate_in) == rates


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a rate"),
        ("10", "is not a rate"),
        ("10m", "is not a rate"),
        ("1.5M", "is not a rate"),
        ("010M", "is not a rate"),
        ("10M/", "is not a rate"),
        ("-10M", "is not a rate"),
        ("10M\n", "is not a rate"),
        ("١٠M", "is not a rate"),
        ("9" * 5000 + "G", "is not a rate"),
        ("10M/20M/30M", "more than two"),
        ("63k", "from 64k to 100G"),
        ("101G", "from 64k to 100G"),
        ("10M/1k", "from 64k to 100G"),
    ],
)
def test_what_is_no_bandwidth_is_refused(text: str, reason: str) -> None:
    with pytest.raises(LabelRefused, match="MOORING_BANDWIDTH") as refusal:
        claim(text)
    assert reason in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_without_a_pool_there_is_nothing_to_limit() -> None:
    with pytest.raises(LabelRefused, match="needs MOORING_POOL"):
        parse_claim(App(AppId("/a"), 1, {"MOORING_BANDWIDTH": "10M"}), RULES)


@given(st.integers(LOWEST // 1000, HIGHEST // 1000), st.integers(LOWEST // 1000, HIGHEST // 1000))
def test_rates_read_as_they_are_written(out: int, into: int) -> None:
    assert parse_bandwidth(bandwidth_text(out * 1000, into * 1000)) == (out * 1000, into * 1000)


@given(st.text(max_size=20))
def test_no_text_breaks_the_door(text: str) -> None:
    try:
        rates = parse_bandwidth(text)
    except ValueError:
        return
    assert all(LOWEST <= rate <= HIGHEST for rate in rates)


def test_a_direction_without_a_limit_is_a_dash() -> None:
    assert [bandwidth_text(None, None), bandwidth_text(None, 1000)] == ["", "-/1k"]
    port = PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24, rate_out=1_000_000, rate_in=5_000_000)
    assert told(port).endswith("limited to 1M/5M")


def limited(out: int | None, into: int | None) -> PortSpec:
    """The port that is wanted for an instance whose app asks for these rates."""
    asked = Claim(AppId("/web"), rate_out=out, rate_in=into)
    spec = wants_of(facts(claim=asked, wiring=Wiring(24)), binding()).specs[NETWORK]
    assert isinstance(spec, PortSpec)
    return spec


def test_the_port_shows_what_the_app_asks_for_now() -> None:
    assert (limited(1, 2).rate_out, limited(1, 2).rate_in) == (1, 2)
    assert limited(None, None).rate_out is None


def test_where_nothing_good_is_known_of_the_app_the_limit_stays() -> None:
    before = limited(1, 2)
    known = replace(binding(), sinks={NETWORK: SinkState(before, before)})
    assert wants_of(facts(claim=None, wiring=Wiring(24)), known).specs[NETWORK] == before
    assert wants_of(facts(claim=None, wiring=Wiring(24)), binding()).specs[NETWORK] == limited(None, None)


def test_specs_stored_before_there_were_limits_still_decode() -> None:
    port = PortSpec("h1", "t", "/web", 0, "i", "10.0.0.2", 24)
    stored = encode_spec(port).replace(b',"rate_out":null', b"").replace(b',"rate_in":null', b"")
    assert b"rate" not in stored
    assert decode_spec(stored) == port


def test_a_host_tells_the_limits_that_stand() -> None:
    world = MemoryHosts(["h1"])
    world.place("h1", "i._app.1")
    order = {"op": "attach", "id": "b", "task_id": "i._app.1", "app": "/web", "slot": 0, "instance": "i",
             "address": "10.0.0.5", "prefix": 24, "generation": 1, "rate_out": 1, "rate_in": 2}  # fmt: skip
    answers = world.play("h1", [order, {"op": "observe", "id": "o"}], 1)
    [seen] = port_marks("h1", answers[1])
    assert seen == as_marked(limited(1, 2))


async def test_a_limit_that_does_not_stand_is_drift() -> None:
    port = limited(1_000_000, 2_000_000)
    there = as_marked(port)
    places = frozenset({port.host})
    sound = Observation({port_key(port): there}, places=places)
    assert await words(NETWORK, sound, settled(0, NETWORK, port)) == []
    lost = Observation({port_key(port): structs.replace(there, rate_out=None)}, places=places)
    [(kind, _, detail)] = await words(NETWORK, lost, settled(0, NETWORK, port))
    assert (kind, detail) == ("different", "rate_out is None in place of 1000000")
