"""Both implementations of the framer and the splitter, and streams and documents to try them on.

What a machine made of some bytes is its *outcome*: everything a caller can see.  No cut of the bytes may
change it, and the twins must agree on it.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Collection, Iterable, Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import strategies as st

from mooring.cext import ElementTooLong, _pure, _pure_array

try:
    native: ModuleType | None = importlib.import_module("mooring.cext._native")
except ImportError:  # no compiler when Mooring was installed
    native = None

_needs_native = pytest.mark.skipif(native is None, reason="the C extension was not built (make venv)")


def _both(python: type, name: str) -> list[Any]:
    built = getattr(native, name, None)
    return [pytest.param(python, id="python"), pytest.param(built, id="c", marks=_needs_native)]


FRAMERS = _both(_pure.Framer, "Framer")
SPLITTERS = _both(_pure_array.ArraySplitter, "ArraySplitter")
on_both_framers = pytest.mark.parametrize("framer_class", FRAMERS)
on_both_splitters = pytest.mark.parametrize("splitter_class", SPLITTERS)
needs_native = _needs_native


def cut(whole: bytes, cuts: Collection[int]) -> list[bytes]:
    """`whole` in pieces; a cut beyond its end is none, two at one place leave an empty piece."""
    edges = [0, *sorted(min(at, len(whole)) for at in cuts), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(edges)]


def framing(
    framer_class: Any, pieces: Iterable[bytes], limit: int, wanted: Collection[str] | None = None
) -> Any:
    """The outcome of one stream."""
    framer = framer_class(limit, wanted)
    frames = [frame for piece in pieces for frame in framer.feed(piece)]
    return frames, framer.skipped, framer.unwanted, framer.last_event_id, framer.retry_ms


def splitting(splitter_class: Any, pieces: Sequence[bytes], key: str | None, limit: int = 1000) -> Any:
    """The outcome of one document: its elements, and what was wrong with it (None: nothing)."""
    splitter = splitter_class(key, limit)
    elements: list[bytes] = []
    try:
        for piece in pieces:
            elements += splitter.feed(piece)
        splitter.close()
    except ValueError as error:
        return elements, _mistake(error)
    return elements, None


def _mistake(error: ValueError) -> str:
    text = str(error)
    assert isinstance(error, ElementTooLong) == (": an element is longer than " in text)
    return text


# -- streams

_FIELDS = [
    b"data",
    b"data:",
    b"data: {}",
    b"data:  x",
    b"event",
    b"event:",
    b"event: a",
    b"event:b",
    b"event: \xff",
]
_OTHERS = [
    b"",
    b":",
    b": x",
    b"id",
    b"id: 1",
    b"id: \0",
    b"id:\xff",
    b"retry: 5",
    b"retry:",
    b"retry: 9999999999",
]
_line = st.one_of(
    st.sampled_from([*_FIELDS, *_OTHERS, b"dat", b"datax: 1", b"events: a", b"\xef\xbb\xbfdata: x"]),
    st.sampled_from([b"data: ", b"event: ", b"id: ", b"retry: ", b""]).flatmap(
        lambda name: st.binary(max_size=12).map(lambda value: name + value)
    ),
    st.integers(20, 80).map(lambda size: b"data: " + b"x" * size),
)
_end = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"])
_start = st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb", b"\xef"])
_structured_stream = st.tuples(_start, st.lists(st.tuples(_line, _end), max_size=25)).map(
    lambda drawn: drawn[0] + b"".join(line + end for line, end in drawn[1])
)
_soup = st.lists(
    st.sampled_from([bytes([byte]) for byte in b"data: eventi\r\n\r\n\0\xef\xbb\xbf"]), max_size=80
)
streams = st.one_of(_structured_stream, _soup.map(b"".join), st.binary(max_size=80))
wanted_sets = st.sampled_from([None, [], ["a"], ["b", "a", "message"], ["\ufffd"]])
limits = st.sampled_from([1, 2, 3, 6, 10, 20, 64, 1000])
cuts = st.lists(st.integers(0, 400), max_size=20)

# -- documents

_json = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.text(max_size=8),
        st.sampled_from(['"', "\\", "[", "}", ","]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def arrays_in_documents(draw: st.DrawFn) -> tuple[bytes, str | None, list[Any]]:
    """A valid document, the key of its array (None: it is the array) and the array's elements."""
    key = draw(st.sampled_from([None, "apps", "", "ä"]))
    elements = draw(st.lists(_json, max_size=6))
    others = draw(st.dictionaries(st.text(max_size=5).filter(lambda name: name != key), _json, max_size=3))
    members = draw(st.permutations([*others.items(), (key, elements)]))
    style = draw(st.sampled_from([{}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}]))
    ascii_only = key is None or key.isascii()  # a key is compared as it is spelled
    document: Any = elements if key is None else dict(members)
    text = json.dumps(document, ensure_ascii=draw(st.booleans()) and ascii_only, **style)
    return text.encode("utf-8", "surrogatepass"), key, elements


_token = st.sampled_from(
    [*(bytes([byte]) for byte in b'[]{},:"\\ \n1'), b'"apps":[', b'"a":', b'{"a":[1]}', b'"x\\""']
)


@st.composite
def broken_documents(draw: st.DrawFn) -> tuple[bytes, str | None]:
    """A document with a few tokens put into it or a few bytes taken out, or nothing but tokens."""
    document, key, _ = draw(arrays_in_documents())
    if draw(st.integers(0, 3)) == 0:
        return b"".join(draw(st.lists(_token, max_size=25))), key
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(document)))
        document = (
            document[:at] + draw(st.one_of(st.just(b""), _token)) + document[at + draw(st.integers(0, 2)) :]
        )
    return document, key
