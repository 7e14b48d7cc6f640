"""The judge of lost pings sees every kind of loss."""

from __future__ import annotations

from tests.e2e.pings import Heard, heard_in

WHOLE = """\
PING 10.64.0.5 (10.64.0.5) 56(84) bytes of data.
[1000.0] 64 bytes from 10.64.0.5: icmp_seq=1 ttl=64 time=0.1 ms
[1000.2] 64 bytes from 10.64.0.5: icmp_seq=2 ttl=64 time=0.1 ms
[1000.4] 64 bytes from 10.64.0.5: icmp_seq=3 ttl=64 time=0.1 ms

--- 10.64.0.5 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 400ms
"""


def answered(*numbers: int, sent: int) -> Heard:
    return Heard([(number, 1000.0 + number) for number in numbers], sent)


def test_every_answer_is_read() -> None:
    heard = heard_in(WHOLE)
    assert heard == Heard([(1, 1000.0), (2, 1000.2), (3, 1000.4)], 3)
    assert (heard.gaps(), heard.doubled) == ([], 0)


def test_late_answers_and_one_on_its_way_are_no_losses() -> None:
    assert answered(2, 1, 4, 3, sent=5).gaps() == []


def test_losses_at_the_beginning_between_and_at_the_end() -> None:
    assert answered(2, 3, sent=3).gaps() == [(0.0, 1002.0)]
    assert answered(1, 2, 5, sent=5).gaps() == [(1002.0, 1005.0)]
    assert answered(1, 3, 5, sent=5).gaps() == [(1001.0, 1003.0), (1003.0, 1005.0)]
    assert answered(1, 2, sent=4).gaps() == [(1002.0, float("inf"))]
    assert answered(sent=2).gaps() == [(0.0, float("inf"))]


def test_two_answers_to_one_ping_are_seen() -> None:
    twice = WHOLE.replace("icmp_seq=3", "icmp_seq=2").replace("0.1 ms\n\n", "0.1 ms (DUP!)\n\n")
    assert heard_in(twice).doubled == 1
