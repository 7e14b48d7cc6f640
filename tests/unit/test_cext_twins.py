"""Both implementations: the right one serves, they agree on everything, the one in C keeps its books."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from mooring.cext import IMPLEMENTATION, Frame, _pure, _pure_array
from tests.unit.cext_twins import (
    broken_documents,
    cut,
    cuts,
    framing,
    limits,
    native,
    needs_native,
    splitting,
    streams,
    wanted_sets,
)

SHOW = "from mooring.cext import *; print(IMPLEMENTATION, Framer.__module__, ArraySplitter.__module__)"


def chosen(asked_for: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MOORING_CEXT": asked_for}
    return subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=False
    )


# -- the chooser


def test_where_a_compiler_is_c_serves() -> None:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if os.environ.get("MOORING_CEXT") == "python":
        assert IMPLEMENTATION == "python"
    elif shutil.which(compiler) and headers.exists():
        assert IMPLEMENTATION == "c", "the extension was not built: make venv"
    else:
        pytest.skip("no compiler, or no headers of Python")


def test_the_twin_can_be_forced() -> None:
    assert chosen("python").stdout.split() == ["python", "mooring.cext._pure", "mooring.cext._pure_array"]


@needs_native
def test_c_can_be_insisted_on() -> None:
    assert chosen("c").stdout.split() == ["c", "mooring.cext._native", "mooring.cext._native"]


def test_an_unknown_choice_is_refused() -> None:
    assert "MOORING_CEXT is 'rust'; set it to c or python" in chosen("rust").stderr


# -- they agree


@needs_native
@given(stream=streams, cuts=cuts, limit=limits, wanted=wanted_sets)
def test_the_framers_agree(stream: bytes, cuts: list[int], limit: int, wanted: Any) -> None:
    assert native is not None
    pieces = cut(stream, cuts)
    assert framing(native.Framer, pieces, limit, wanted) == framing(_pure.Framer, pieces, limit, wanted)


@needs_native
@given(drawn=broken_documents(), cuts=cuts, limit=limits)
def test_the_splitters_agree(drawn: Any, cuts: list[int], limit: int) -> None:
    assert native is not None
    document, key = drawn
    pieces = cut(document, cuts)
    expected = splitting(_pure_array.ArraySplitter, pieces, key, limit)
    assert splitting(native.ArraySplitter, pieces, key, limit) == expected


CORPUS = Path(__file__).parents[1] / "fuzz/corpus"


@needs_native
@pytest.mark.parametrize("limit", [10, 1 << 24])
def test_the_framers_agree_on_the_fuzz_corpus(limit: int) -> None:
    assert native is not None
    streams = [path.read_bytes()[3:] for path in (CORPUS / "sse").iterdir()]
    assert streams
    for stream in streams:
        pieces = cut(stream, range(0, len(stream), 7))
        expected = framing(_pure.Framer, [stream], limit, ["a"])
        assert framing(native.Framer, pieces, limit, ["a"]) == expected, stream


@needs_native
@pytest.mark.parametrize("key", [None, "apps"])
def test_the_splitters_agree_on_the_fuzz_corpus(key: str | None) -> None:
    assert native is not None
    documents = [path.read_bytes()[3:] for path in (CORPUS / "array").iterdir()]
    assert documents
    for document in documents:
        pieces = cut(document, range(0, len(document), 7))
        expected = splitting(_pure_array.ArraySplitter, [document], key, 100)
        assert splitting(native.ArraySplitter, pieces, key, 100) == expected, document


# -- C keeps its books


def exercise() -> None:
    """Every path of the binding that makes objects or drops them."""
    assert native is not None
    framer = native.Framer(500, ["a", "b"])
    for piece in cut(
        b"event: a\ndata: 1\n\nevent: c\ndata: 2\n\ndata: 3\nid: 4\n\ndata: " + b"x" * 600, [5, 20, 40]
    ):
        framer.feed(piece)
    assert (framer.last_event_id, framer.retry_ms) == ("4", None)
    native.Framer().feed(b"".join(b"event: %d\ndata: 1\n\n" % number for number in range(20)))
    for document, key in ((b'{"apps":[1,"2",{}]}', "apps"), (b"[1,,", None), (b"[", None)):
        splitting(native.ArraySplitter, cut(document, [3, 6]), key)
    for wrong in (
        {"limit": 0},
        {"limit": "x"},
        {"wanted": "x"},
        {"wanted": ["a", 1]},
        {"wanted": ["a", "\ud800"]},
    ):
        with pytest.raises((TypeError, ValueError)):
            native.Framer(**wrong)
    for wrong_key in (1, 'a"', "\ud800"):
        with pytest.raises((TypeError, ValueError)):
            native.ArraySplitter(wrong_key)
    with pytest.raises(TypeError):
        framer.feed("text")


@needs_native
def test_nothing_leaks() -> None:
    for _ in range(20):
        exercise()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(200):
        exercise()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100


@needs_native
def test_references_to_what_was_passed_in_are_given_back() -> None:
    assert native is not None
    piece = bytes(bytearray(b"event: some-type\ndata: 1\n\ndata: 2\n\n" * 10))
    wanted = [sys.intern("".join(["some-", "type"]))]
    watched = (piece, wanted, wanted[0], sys.intern("message"), Frame, native.Framer, native.ArraySplitter)
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(100):
        native.Framer(1000, wanted).feed(piece)
        splitting(native.ArraySplitter, [piece], None)
    assert [sys.getrefcount(thing) for thing in watched] == before


@needs_native
def test_a_buffer_is_released_after_the_call() -> None:
    assert native is not None
    for machine in (native.Framer(), native.ArraySplitter(None)):
        piece = bytearray(b"[1,")
        machine.feed(piece)
        piece.extend(b"a buffer that is still exported cannot grow")


@needs_native
def test_frames_survive_their_framer_and_their_piece() -> None:
    assert native is not None
    piece = bytearray(b"event: a\ndata: 1\n\n")
    framer = native.Framer()
    frames = framer.feed(piece)
    piece[:] = b"\0" * len(piece)
    del framer
    gc.collect()
    assert frames == [("a", b"1")]


@needs_native
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="from 3.12 on no foreign code runs while objects are made"
)
def test_a_call_from_within_a_call_is_refused() -> None:
    assert native is not None
    framer, refused = native.Framer(), []

    class Trap:
        def __del__(self) -> None:
            try:
                framer.feed(b"data: inner\n\n")
            except RuntimeError as error:
                refused.append(str(error))

    thresholds = gc.get_threshold()
    gc.disable()
    try:
        trap: Any = Trap()
        trap.itself = trap
        del trap
        gc.set_threshold(1)
        gc.enable()
        frames = framer.feed(b"data: outer\n\n" * 1000)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    assert frames == [("message", b"outer")] * 1000
    assert refused == ["feed was called while it was at work"]
