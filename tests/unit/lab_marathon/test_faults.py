"""The event faults: drop, duplicate, delay and reorder, by type, count and fraction."""

import pytest

from mooring.lab.marathon.faults import Action, Faults, Rule


@pytest.fixture
def delivered():
    return []


@pytest.fixture
def faults(delivered):
    return Faults(lambda event: delivered.append(event["n"]))


def send(faults, count, event_type="x"):
    for n in range(count):
        faults.pass_through({"eventType": event_type, "n": n})


async def test_without_rules_everything_passes(faults, delivered):
    send(faults, 3)
    assert delivered == [0, 1, 2]


async def test_drop_takes_the_next_n_of_its_types(faults, delivered):
    faults.add(Rule(Action.DROP, frozenset({"x"}), count=2))
    send(faults, 3)
    send(faults, 2, "y")
    assert delivered == [2, 0, 1]
    assert faults.rules()[0].hits == 2


async def test_a_fraction_is_random_but_repeatable(faults, delivered):
    faults.add(Rule(Action.DROP, fraction=0.5, seed=7))
    send(faults, 1000)
    assert 400 < len(delivered) < 600
    again = []
    other = Faults(lambda event: again.append(event["n"]))
    other.add(Rule(Action.DROP, fraction=0.5, seed=7))
    send(other, 1000)
    assert again == delivered


async def test_duplicate_sends_twice(faults, delivered):
    faults.add(Rule(Action.DUPLICATE, count=1))
    send(faults, 2)
    assert delivered == [0, 0, 1]


async def test_delay_lets_later_events_overtake(lab):
    await lab.fresh()
    await lab.call("POST", "/lab/faults", {"action": "delay", "count": 1, "seconds": 0.1}, expect=201)
    await lab.call("POST", "/lab/events", {"eventType": "first"})
    await lab.call("POST", "/lab/events", {"eventType": "second"})
    assert await lab.seen("first") == ["second", "first"]


async def test_reorder_reverses_a_window(faults, delivered):
    faults.add(Rule(Action.REORDER, count=3, window=3))
    send(faults, 4)
    assert delivered == [2, 1, 0, 3]


async def test_a_window_that_never_fills_is_released_in_time(lab):
    await lab.call("POST", "/lab/faults", {"action": "reorder", "window": 9, "seconds": 0.05}, expect=201)
    await lab.call("POST", "/lab/events", {"eventType": "held"})
    await lab.seen("held")


async def test_clearing_releases_what_is_held(faults, delivered):
    faults.add(Rule(Action.REORDER, window=9))
    send(faults, 2)
    faults.clear()
    send(faults, 1)
    assert delivered == [1, 0, 0]


async def test_rules_are_listed_and_removed_over_http(lab):
    await lab.call("POST", "/lab/faults", {"action": "drop", "event_types": ["gone"]}, expect=201)
    await lab.call("POST", "/lab/events", {"eventType": "gone"})
    [rule] = await lab.call("GET", "/lab/faults")
    assert (rule["action"], rule["hits"]) == ("drop", 1)
    assert await lab.call("DELETE", "/lab/faults") == []
    await lab.call("POST", "/lab/events", {"eventType": "gone"})
    await lab.seen("gone")


@pytest.mark.parametrize("body", [{"action": "explode"}, {"action": "drop", "typo": 1}, {}, b"nonsense"])
async def test_a_rule_that_cannot_be_read_is_refused(lab, body):
    answer = await lab.call("POST", "/lab/faults", body, expect=400)
    assert "not a fault rule" in answer["message"]


async def test_switches_can_need_a_token(start):
    lab = await start(switches_token="secret")
    await lab.call("GET", "/lab/hosts", expect=401)
    await lab.call("GET", "/ping")
