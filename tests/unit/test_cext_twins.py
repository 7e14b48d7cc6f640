"""Both implementations: the right one serves, they agree on everything, the one in C keeps its books."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
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
PYTHON = ["python", "mooring.cext._pure", "mooring.cext._pure_array"]
SOURCES = Path(_pure.__file__).parent
NATIVE_FILE = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"


def chosen(asked_for: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a new interpreter chooses; `first` holds an installation that comes before ours."""
    environment = os.environ | {"MOORING_CEXT": asked_for}
    if first is not None:
        environment["PYTHONPATH"] = str(first)
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
    assert chosen("python").stdout.split() == PYTHON


@needs_native
def test_c_can_be_insisted_on() -> None:
    assert chosen("c").stdout.split() == ["c", "mooring.cext._native", "mooring.cext._native"]


def test_an_unknown_choice_is_refused() -> None:
    assert "MOORING_CEXT is 'rust'; set it to c or python" in chosen("rust").stderr


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """An installation without the extension."""
    package = tmp_path / "mooring/cext"
    package.mkdir(parents=True)
    for source in SOURCES.glob("*.py"):
        shutil.copy(source, package)
    return tmp_path


def test_where_it_was_not_built_the_twin_serves_unless_c_is_insisted_on(unbuilt: Path) -> None:
    assert chosen("", unbuilt).stdout.split() == PYTHON
    refusal = chosen("c", unbuilt).stderr
    assert "MOORING_CEXT asks for C, but mooring.cext._native was not built: install gcc" in refusal


def test_one_that_cannot_be_loaded_is_no_reason_to_be_slow_in_silence(unbuilt: Path) -> None:
    (unbuilt / "mooring/cext" / NATIVE_FILE).write_bytes(b"not an extension")
    for asked_for in ("", "c"):
        result = chosen(asked_for, unbuilt)
        assert result.returncode != 0
        assert "mooring.cext._native was built but cannot be loaded (" in result.stderr
        assert "set MOORING_CEXT=python" in result.stderr
    assert chosen("python", unbuilt).stdout.split() == PYTHON


def test_a_module_that_the_extension_misses_is_named_itself(unbuilt: Path) -> None:
    (unbuilt / "mooring/cext/_native.py").write_text("import mooring.cext.missing\n")
    assert "No module named 'mooring.cext.missing'" in chosen("", unbuilt).stderr.splitlines()[-1]


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


class Trap:
    """Garbage that calls a machine when it is collected, and keeps what it was refused with."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.refused: list[str] = []
        self._itself = self  # so that only the collector finds it

    def __del__(self) -> None:
        try:
            self._call()
        except RuntimeError as error:
            self.refused.append(str(error))


def sprung(inner: Callable[[], Any], outer: Callable[[], Any]) -> tuple[Any, list[str]]:
    """The result of `outer`, and what `inner` was refused with when the collector called it meanwhile."""
    thresholds = gc.get_threshold()
    gc.disable()
    try:
        trap = Trap(inner)
        refused = trap.refused
        del trap
        unspent = [[] for _ in range(1000)]  # no list is left that would be given out again, uncollected
        gc.set_threshold(1)
        gc.enable()
        result = outer()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    assert len(unspent) == 1000
    return result, refused


only_before_3_12 = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="from 3.12 on no foreign code runs while objects are made"
)


@needs_native
@only_before_3_12
def test_a_call_of_the_framer_from_within_a_call_is_refused() -> None:
    assert native is not None
    framer = native.Framer()
    inner, outer = partial(framer.feed, b"data: inner\n\n"), partial(framer.feed, b"data: outer\n\n" * 1000)
    frames, refused = sprung(inner, outer)
    assert frames == [("message", b"outer")] * 1000
    assert refused == ["feed was called while feed was at work"]


@needs_native
@only_before_3_12
@pytest.mark.parametrize("name", ["feed", "close"])
def test_a_call_of_the_splitter_from_within_a_call_is_refused(name: str) -> None:
    assert native is not None
    splitter = native.ArraySplitter(None)
    splitter.feed(b"[1,")
    inner = partial(splitter.feed, b"9,") if name == "feed" else splitter.close
    elements, refused = sprung(inner, partial(splitter.feed, b"2,3]"))
    assert elements == [b"2", b"3"]
    assert refused == [f"{name} was called while feed was at work"]
    splitter.close()
