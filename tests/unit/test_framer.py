"""The framer: the format's rules, and that no way of cutting the bytes changes what comes out.

Every test runs on both implementations.
"""

from __future__ import annotations

import array
import sys
from typing import Any

import pytest
from hypothesis import given

from mooring.cext import DEFAULT_LIMIT, Frame
from mooring.cext._pure import Framer as PureFramer
from tests.unit.cext_twins import (
    cut,
    cuts,
    framing,
    limits,
    native,
    needs_native,
    on_both_framers,
    streams,
    wanted_sets,
)


def frames_of(framer_class: Any, *pieces: bytes, **arguments: Any) -> list[Frame]:
    framer = framer_class(**arguments)
    return [frame for piece in pieces for frame in framer.feed(piece)]


@on_both_framers
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
        pytest.param(b"\xef\xbb\xbf\n\xef\xbb\xbfdata: x\n\n", [], id="only-one-bom"),
        pytest.param(b"\xef\xbbdata: x\n\n", [], id="half-a-bom"),
        pytest.param(b"data: cut", [], id="unfinished"),
        pytest.param(b"data: cut\n", [], id="unfinished-after-line"),
        pytest.param(b"unknown: y\ndata: x\n\n", [("message", b"x")], id="unknown-field"),
        pytest.param(b"event: \xff\ndata: \xff\n\n", [("\ufffd", b"\xff")], id="not-utf8"),
    ],
)
def test_the_format(framer_class: Any, stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert frames_of(framer_class, stream) == expected
    assert frames_of(framer_class, *(bytes([byte]) for byte in stream)) == expected


@on_both_framers
def test_frames_are_frames(framer_class: Any) -> None:
    frame = framer_class().feed(b"event: a\ndata: x\n\n")[0]
    assert type(frame) is Frame
    assert (frame.event, frame.data, repr(frame)) == ("a", b"x", "Frame(event='a', data=b'x')")


@on_both_framers
def test_heartbeat_halves_arrive_separately(framer_class: Any) -> None:
    pieces = (b"\r", b"\n", b"event: a\r", b"\ndata: x\r", b"\n\r", b"\n", b"\r", b"\n")
    assert frames_of(framer_class, *pieces) == [("a", b"x")]


@on_both_framers
def test_a_lone_cr_completes_the_event_at_once(framer_class: Any) -> None:
    framer = framer_class()
    assert framer.feed(b"data: x\r\n\r") == [("message", b"x")]
    assert framer.feed(b"\ndata: y\n\n") == [("message", b"y")]


@on_both_framers
def test_id_and_retry_are_remembered(framer_class: Any) -> None:
    framer = framer_class()
    assert (framer.last_event_id, framer.retry_ms) == ("", None)
    framer.feed(b"id: 7\nretry: 250\n\nid: bad\0id\nretry: soon\n\n")
    assert (framer.last_event_id, framer.retry_ms) == ("7", 250)


# -- wanted types


@on_both_framers
def test_only_wanted_types_leave_and_the_others_are_counted(framer_class: Any) -> None:
    framer = framer_class(wanted={"a"})
    stream = b"event: a\ndata: 1\n\nevent: b\ndata: 2\n\ndata: 3\n\nevent:\ndata: 4\n\nevent: b\n\n"
    assert framer.feed(stream) == [("a", b"1"), ("message", b"3"), ("message", b"4")]
    assert (framer.unwanted, framer.skipped) == (1, 0)


@on_both_framers
@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(b"data: 1\nevent: a\n\n", [("a", b"1")], id="type-after-data"),
        pytest.param(b"data: 1\nevent: b\n\n", [], id="unwanted-type-after-data"),
        pytest.param(b"event: b\ndata: 1\nevent: a\n\n", [("a", b"1")], id="the-last-type-counts"),
        pytest.param(b"event: a\ndata: 1\nevent: b\n\n", [], id="also-if-unwanted"),
        pytest.param(b"event: aa\ndata: 1\n\n", [], id="longer-than-a-wanted-one"),
        pytest.param("event: \u00e4\ndata: 1\n\n".encode(), [("\u00e4", b"1")], id="not-ascii"),
        pytest.param(b"event: \xff\ndata: 1\n\n", [], id="not-utf8"),
    ],
)
def test_which_event_is_wanted(framer_class: Any, stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    wanted = ["a", "\u00e4", "\ufffd"]
    assert frames_of(framer_class, stream, wanted=wanted) == expected
    assert frames_of(framer_class, *(bytes([byte]) for byte in stream), wanted=wanted) == expected


@on_both_framers
def test_nothing_wanted_leaves_what_has_no_type(framer_class: Any) -> None:
    assert frames_of(framer_class, b"event: a\ndata: 1\n\ndata: 2\n\n", wanted=()) == [("message", b"2")]


@on_both_framers
def test_an_unwanted_event_over_the_limit_counts_as_skipped(framer_class: Any) -> None:
    framer = framer_class(limit=100, wanted=["a"])
    assert framer.feed(b"event: b\ndata: " + b"x" * 100 + b"\n\nevent: a\ndata: 1\n\n") == [("a", b"1")]
    assert (framer.skipped, framer.unwanted) == (1, 0)


@on_both_framers
def test_the_string_of_a_wanted_type_is_shared(framer_class: Any) -> None:
    first, second = frames_of(framer_class, b"event: kind\ndata: 1\n\n" * 2, wanted=["kind"])
    assert first.event is second.event


@needs_native
def test_in_c_the_string_of_a_frequent_type_is_shared() -> None:
    assert native is not None
    stream = b"".join(b"event: type-%d\ndata: 1\n\n" % (number % 5) for number in range(10))
    frames = native.Framer().feed(stream)
    assert all(one.event is other.event for one, other in zip(frames[:5], frames[5:], strict=True))


@needs_native
def test_more_types_than_are_remembered_keep_their_names() -> None:
    assert native is not None
    names = [f"type-{number}" for number in range(40)] * 2
    stream = "".join(f"event: {name}\ndata: 1\n\n" for name in names).encode()
    assert [frame.event for frame in native.Framer().feed(stream)] == names


# -- the limit


@on_both_framers
@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_an_event_over_the_limit_is_skipped_and_counted(framer_class: Any, step: int) -> None:
    stream = b"data: a\n\nevent: big\ndata: " + b"x" * 5000 + b"\ndata: y\n\ndata: b\n\n"
    framer = framer_class(limit=100)
    pieces = [stream[i : i + step] for i in range(0, len(stream), step)]
    assert [frame.data for piece in pieces for frame in framer.feed(piece)] == [b"a", b"b"]
    assert framer.skipped == 1


@on_both_framers
def test_many_small_lines_cannot_outgrow_the_limit(framer_class: Any) -> None:
    framer = framer_class(limit=100)
    assert framer.feed(b"data: 1\n" * 50 + b"\ndata: next\n\n") == [("message", b"next")]
    assert framer.skipped == 1


@on_both_framers
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_the_limit_itself_is_still_served(framer_class: Any, start: bytes) -> None:
    line = start + b"data: " + b"x" * 94
    assert frames_of(framer_class, line + b"\n\n", limit=100) == [("message", b"x" * 94)]
    assert frames_of(framer_class, line + b"y\n\n", limit=100) == []


@on_both_framers
def test_comments_never_add_up(framer_class: Any) -> None:
    assert frames_of(framer_class, b": ping\n" * 1000 + b"data: x\n\n", limit=100) == [("message", b"x")]


def test_memory_stays_bounded_while_skipping() -> None:
    framer = PureFramer(limit=1000)
    for _ in range(200):
        framer.feed(b"data: " + b"x" * 10_000)
        assert len(framer._partial) <= 1000
    assert framer.skipped == 1


@needs_native
def test_in_c_memory_stays_bounded_and_is_given_back() -> None:
    assert native is not None
    framer = native.Framer(limit=1_000_000)
    largest = 0
    for _ in range(200):
        framer.feed(b"data: " + b"x" * 10_000)
        largest = max(largest, sys.getsizeof(framer))
    assert framer.skipped == 1
    assert 500_000 < largest <= 2_200_000
    assert sys.getsizeof(framer) < 100_000


@needs_native
@pytest.mark.parametrize("line", [b"data: ", b"event: ", b": ", b"unknown"])
def test_in_c_a_large_event_leaves_no_large_buffer(line: bytes) -> None:
    assert native is not None
    framer = native.Framer()
    framer.feed(b"data: small\n" + line)
    for _ in range(80):
        framer.feed(b"x" * 65_536)
    assert sys.getsizeof(framer) > 5_000_000
    assert len(framer.feed(b"\n\n")) == 1
    assert sys.getsizeof(framer) < 200_000


@on_both_framers
def test_the_default_limit(framer_class: Any) -> None:
    framer = framer_class()
    assert framer.limit == DEFAULT_LIMIT == 16 * 1024 * 1024
    assert len(framer.feed(b"data: " + b"x" * (DEFAULT_LIMIT - 6) + b"\n\n")) == 1
    assert framer.feed(b"data: " + b"x" * (DEFAULT_LIMIT - 5) + b"\n\n") == []


# -- arguments


@on_both_framers
@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_buffer_is_taken(framer_class: Any, wrap: Any) -> None:
    assert framer_class().feed(wrap(b"data: x\n\n")) == [("message", b"x")]
    assert framer_class().feed(wrap(b"")) == []


@on_both_framers
@pytest.mark.parametrize("wrong", ["text", None, 7, [b"x"]])
def test_what_is_no_buffer_is_refused(framer_class: Any, wrong: Any) -> None:
    framer = framer_class()
    with pytest.raises(TypeError):
        framer.feed(wrong)
    assert framer.feed(b"data: x\n\n") == [("message", b"x")]


@on_both_framers
def test_a_buffer_with_gaps_is_refused(framer_class: Any) -> None:
    with pytest.raises(BufferError):
        framer_class().feed(memoryview(b"data: x\n\n")[::2])


@on_both_framers
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": -1}, ValueError),
        ({"limit": 1 << 80}, ValueError),
        ({"limit": 1.5}, TypeError),
        ({"limit": None}, TypeError),
        ({"wanted": "status"}, TypeError),
        ({"wanted": [b"status"]}, TypeError),
        ({"wanted": 5}, TypeError),
        ({"wanted": ["\ud800"]}, UnicodeEncodeError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    framer_class: Any, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        framer_class(**arguments)


# -- cuts


@on_both_framers
@given(stream=streams, cuts=cuts, limit=limits, wanted=wanted_sets)
def test_no_cut_changes_the_outcome(
    framer_class: Any, stream: bytes, cuts: list[int], limit: int, wanted: Any
) -> None:
    whole = framing(framer_class, [stream], limit, wanted)
    assert framing(framer_class, cut(stream, cuts), limit, wanted) == whole
    assert framing(framer_class, (bytes([byte]) for byte in stream), limit, wanted) == whole
