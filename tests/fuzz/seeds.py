"""Writes the seeds of the fuzz corpora: `python -m tests.fuzz.seeds [directory]`.

Each file is what a harness reads: three bytes (limit, wanted types or key, seed of the cuts) and then the
stream or document.  A file is named after its content, so writing the seeds again changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
DATA = Path(__file__).parents[1] / "data"
LARGEST = 4096  # bytes of one seed: more would only be slow
NO_LIMIT_SSE, NO_LIMIT_ARRAY = 9, 8  # places of the largest limit in the harnesses' tables
BY_KEY = {None: 0, "apps": 1, "a": 2, "": 3}

STREAMS = (
    b"event: a\r\ndata: {}\r\n\r\n",
    b"event: a\rdata: {}\r\r",
    b"data: 1\ndata\ndata:\n\n",
    b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n",
    b"\xef\xbbdata: x\n\n",
    b"\r\n\r\n\r\ndata: x\r\n\r\n\r\n",
    b": comment\n\n:\ndata: x\n:\n\n",
    b"id: 7\nretry: 250\n\nid: bad\0id\nretry: soon\nretry: 9999999999\n\n",
    b"data: x\nevent: b\nevent: a\n\nevent: b\ndata: x\n\n",
    b"data: " + b"x" * 300 + b"\ndata: y\n\ndata: b\n\n",
    b"event: " + b"n" * 300 + b"\ndata: y\n\n",
    b"event: \xc3\xa4\ndata: \xff\xfe\n\nevent: \xff\ndata:\n\n",
    b"data:1\n" * 40 + b"\n",
    b"eventx: a\nevents\ndat\nidx\nretryy: 1\ndata: x\n\n",
)
DOCUMENTS: tuple[tuple[str | None, bytes], ...] = (
    (None, b'[1, "a,]\\"", {"x":[1,2]} , [[]] ]'),
    (None, b"[[1}]"),
    (None, b"[1,,2]"),
    (None, b"[,1]"),
    (None, b"[1, ]"),
    (None, b"[] x"),
    (None, b"\xef\xbb\xbf[]"),
    (None, b'["\\\\\\"", "\\u005d", "\\'),
    (None, b"[" * 600),
    (None, b"[" * 512 + b"]" * 512),
    (None, b"[" + b" " * 200 + b"1" + b" " * 200 + b"]"),
    ("apps", b'{"a":[9],"apps" : [1,{"id":"]"}] , "b":{"apps":[9]}}'),
    ("apps", b'{"apps":[1],"apps":[2]}'),
    ("apps", b'{"apps":{}}'),
    ("apps", b'{"\\u0061pps":[9],"app":[8],"appss":[7],"apps":[]}'),
    ("apps", b'{"x":"\\"[","apps":[]]'),
    ("a", b'{"a" 1}'),
    ("a", b'{"b":,"a":[]}'),
    ("a", b'{"b":1,}'),
    ("a", b'{"b":[[{}]],"a":[]"c":1}'),
    ("", b'{"":[""]}'),
    ("", b"{}"),
)


def _recorded_streams() -> Iterator[bytes]:
    for path in sorted((DATA / "marathon-events").glob("*.json")):
        data = json.dumps(json.loads(path.read_bytes()), separators=(",", ":")).encode()
        yield b"event: " + path.stem.encode() + b"\r\ndata: " + data + b"\r\n\r\n\r\n"


def _recorded_documents() -> Iterator[bytes]:
    for path in sorted((DATA / "marathon-api").glob("*.json")):
        document = json.loads(path.read_bytes())
        for key in ("apps", "tasks"):
            if key in document:
                yield json.dumps({"apps": document[key][:1]}).encode()
                yield json.dumps({"apps": document[key][:1]}, indent=1).encode()


def streams() -> Iterator[bytes]:
    """Inputs of `fuzz_sse`: hand-made ones with every limit, recorded ones with the largest."""
    for number, stream in enumerate((*STREAMS, b"".join(STREAMS))):
        yield bytes([NO_LIMIT_SSE, number % 6, number]) + stream
        yield bytes([number % 9, number % 6, number]) + stream
    for number, stream in enumerate(_recorded_streams()):
        yield bytes([NO_LIMIT_SSE, number % 6, number]) + stream[:LARGEST]


def documents() -> Iterator[bytes]:
    """Inputs of `fuzz_array`, likewise."""
    for number, (key, document) in enumerate(DOCUMENTS):
        yield bytes([NO_LIMIT_ARRAY, BY_KEY[key], number]) + document
        yield bytes([number % 8, BY_KEY[key], number]) + document
    for number, document in enumerate(_recorded_documents()):
        yield bytes([NO_LIMIT_ARRAY, BY_KEY["apps"], number]) + document[:LARGEST]


def main(directory: Path) -> None:
    for name, inputs in (("sse", streams()), ("array", documents())):
        (directory / name).mkdir(parents=True, exist_ok=True)
        for content in inputs:
            (directory / name / hashlib.sha1(content).hexdigest()).write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS)
