"""The framer: the format's rules, and that no way of cutting the bytes changes what comes out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.cext import Frame, Framer
from mooring.cext._pure import Framer as PureFramer


def frames_of(*pieces: bytes, limit: int = 1000) -> list[Frame]:
    framer = Framer(limit)
    return [frame for piece in pieces for frame in framer.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"event: a\r\ndata: {}\r\n\r\n", [("a", b"{}")], id="crlf"),
        pytest.param(b"event: a\ndata: {}\n\n", [("a", b"{}")], id="lf"),
        pytest.param(b"event: a\rdata: {}\r\r", [("a", b"{}")], id="cr"),
        pytest.param(b"data: x\n\r\n", [("message", b"x")], id="mixed-ends"),
        pytest.param(b"data: one\ndata: two\n\n", [("message", b"one\ntwo")], id="two-data-lines"),
        pytest.param(b"data: 1\ndata\ndata:\n\n", [("message", b"1\n\n")], id="empty-data-lines"),
        pytest.param(b"data\n\n", [("message", b"")], id="data-without-colon"),
        pytest.param(b"data:no-space\n\n", [("message", b"no-space")], id="no-space"),
        pytest.param(b"data:  two\n\n", [("message", b" two")], id="only-one-space-is-eaten"),
        pytest.param(b": comment\n\ndata: x\n\n", [("message", b"x")], id="comment"),
        pytest.param(b":\ndata: x\n:\n\n", [("message", b"x")], id="comment-inside"),
        pytest.param(b"event: lonely\n\ndata: x\n\n", [("message", b"x")], id="event-without-data"),
        pytest.param(b"\xef\xbb\xbfdata: x\n\n", [("message", b"x")], id="bom"),
        pytest.param(b"data: a\n\n\xef\xbb\xbfdata: x\n\n", [("message", b"a")], id="bom-only-at-start"),
        pytest.param(b"\r\n\r\n\r\ndata: x\r\n\r\n\r\n", [("message", b"x")], id="heartbeats"),
        pytest.param(b"data: cut", [], id="unfinished"),
        pytest.param(b"data: cut\n", [], id="unfinished-after-line"),
        pytest.param(b"unknown: y\ndata: x\n\n", [("message", b"x")], id="unknown-field"),
        pytest.param(b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")], id="not-utf8"),
    ],
)
def test_the_format(stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert frames_of(stream) == expected


def test_heartbeat_halves_arrive_separately() -> None:
    assert frames_of(b"\r", b"\n", b"event: a\r", b"\ndata: x\r", b"\n\r", b"\n", b"\r", b"\n") == [
        ("a", b"x")
    ]


def test_a_lone_cr_completes_the_event_at_once() -> None:
    framer = Framer()
    assert framer.feed(b"data: x\r\n\r") == [("message", b"x")]
    assert framer.feed(b"\ndata: y\n\n") == [("message", b"y")]


def test_id_and_retry_are_remembered() -> None:
    framer = Framer()
    framer.feed(b"id: 7\nretry: 250\n\nid: bad\0id\nretry: soon\n\n")
    assert (framer.last_event_id, framer.retry_ms) == ("7", 250)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_buffer_is_taken(wrap: type) -> None:
    assert Framer().feed(wrap(b"data: x\n\n")) == [("message", b"x")]
    assert Framer().feed(wrap(b"")) == []


@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_an_event_over_the_limit_is_skipped_and_counted(step: int) -> None:
    stream = b"data: a\n\nevent: big\ndata: " + b"x" * 5000 + b"\ndata: y\n\ndata: b\n\n"
    framer = Framer(limit=100)
    pieces = [stream[i : i + step] for i in range(0, len(stream), step)]
    assert [frame.data for piece in pieces for frame in framer.feed(piece)] == [b"a", b"b"]
    assert framer.skipped == 1


def test_many_small_lines_cannot_outgrow_the_limit() -> None:
    framer = Framer(limit=100)
    assert framer.feed(b"data: 1\n" * 50 + b"\ndata: next\n\n") == [("message", b"next")]
    assert framer.skipped == 1


def test_the_limit_itself_is_still_served() -> None:
    line = b"data: " + b"x" * 94
    assert frames_of(line + b"\n\n", limit=100) == [("message", b"x" * 94)]
    assert frames_of(line + b"y\n\n", limit=100) == []


def test_comments_never_add_up() -> None:
    assert frames_of(b": ping\n" * 1000 + b"data: x\n\n", limit=100) == [("message", b"x")]


def test_memory_stays_bounded_while_skipping() -> None:
    framer = PureFramer(limit=1000)
    for _ in range(200):
        framer.feed(b"data: " + b"x" * 10_000)
        assert len(framer._partial) <= 1000
    assert framer.skipped == 1


_line = st.one_of(
    st.sampled_from(
        [b"", b"data: {}", b"data:", b"data", b"event: a", b"event", b":", b"id: 1", b"retry: 5"]
    ),
    st.binary(max_size=12).map(lambda value: b"data: " + value),
    st.binary(max_size=12),
    st.integers(20, 60).map(lambda size: b"data: " + b"x" * size),
)
_stream = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(st.tuples(_line, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=30),
).map(lambda drawn: drawn[0] + b"".join(line + end for line, end in drawn[1]))


@settings(deadline=None)
@given(_stream, st.lists(st.integers(0, 400), max_size=20))
def test_no_split_changes_the_frames(stream: bytes, cuts: list[int]) -> None:
    whole, cut = Framer(limit=64), Framer(limit=64)
    expected = whole.feed(stream)
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert [frame for piece in pieces for frame in cut.feed(piece)] == expected
    assert _outcome(cut) == _outcome(whole)


@settings(deadline=None)
@given(_stream)
def test_byte_by_byte_gives_the_same_frames(stream: bytes) -> None:
    whole, slow = Framer(limit=64), Framer(limit=64)
    expected = whole.feed(stream)
    assert [frame for byte in stream for frame in slow.feed(bytes([byte]))] == expected
    assert _outcome(slow) == _outcome(whole)


def _outcome(framer: Framer) -> tuple[int, str, int | None]:
    return framer.skipped, framer.last_event_id, framer.retry_ms
