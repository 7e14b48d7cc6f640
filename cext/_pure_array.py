r"""Cuts one JSON array into its elements while the document still arrives: the twin of `array.c`.

Only structure is read: strings (with their escapes), brackets (which must match in kind) and the commas at
the array's own depth.  What stands between two commas is handed out as it came, for the decoder to judge;
just nothing at all is not an element.  A member's name is compared as it is spelled: one that is written
with escapes (`"\u0061pps"`) is another member.

A document is read by one small state per place in it (`_before_key`, `_in_element` ...).  A state takes the
piece and a position in it and returns how far it came, so a cut between any two bytes is no special case.

The first mistake is final.  Elements that were complete before it still leave, so a call that has some
returns them and the next call raises.  That makes elements and error independent of how the bytes were cut.
"""

from __future__ import annotations

import re
import sys
from typing import Never, final

from mooring.cext._arguments import as_bytes, checked_key, checked_limit
from mooring.cext.frame import DEFAULT_LIMIT, ElementTooLong

_MAX_DEPTH = 512
_SPACE = re.compile(rb"[ \t\r\n]*")
_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')
_REST_OF_STRING = re.compile(rb'[^"\\]*(?:\\[\s\S][^"\\]*)*"')
# A string that ends in this piece is one token; the lone quote stands for one that does not.
_STRING = rb'"[^"\\]*(?:\\[\s\S][^"\\]*)*"'
_SHALLOW = re.compile(_STRING + rb'|[\[\]{},"]')
_DEEP = re.compile(_STRING + rb'|[\[\]{}"]')  # below the array's own depth a comma means nothing
_OPENS = {ord("]"): ord("["), ord("}"): ord("{")}


class _Mistake(Exception):
    """What is wrong with the document, and where."""


@final
class ArraySplitter:
    """Cuts the elements of one array out of one document."""

    def __init__(self, key: str | None, limit: int = DEFAULT_LIMIT) -> None:
        """`key` names the member of the document's object that is the array; None: the document is the array.

        `limit` is the most bytes that one element may take, white space behind it included.
        """
        self._key = checked_key(key)
        self._subject = "JSON array" if key is None else f'JSON array "{key}"'
        self._limit = checked_limit(limit)
        self._error: str | None = None
        self._error_type: type[ValueError] = ValueError
        self._state = self._before_document
        self._offset = 0  # of the piece being read
        self._open = bytearray()  # the brackets we are in
        self._base = 0  # how many of them stand around the value being read
        self._in_string = False
        self._escaped = False
        self._name: bytearray | None = None  # a member's name as far as it was read; None: not our key
        self._seen = False
        self._element = bytearray()  # what earlier pieces held of the element being read
        self._elements: list[bytes] = []

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next piece and return the elements it completed, each without the white space around it.

        Raises ValueError, naming the mistake and its offset, or the subclass `ElementTooLong`; if elements
        were complete before the mistake, they are returned and the next call raises.
        """
        piece = as_bytes(data)
        self._raise_error()
        at = 0
        try:
            while at < len(piece):
                at = self._state(piece, at)
        except _Mistake as mistake:
            self._error = str(mistake)
            self._element = bytearray()
        self._offset += len(piece)
        elements, self._elements = self._elements, []
        if not elements:
            self._raise_error()
        return elements

    def close(self) -> None:
        """Say that the document has ended. Raises ValueError if it was not whole or had no such array."""
        if self._error is None:
            if self._state != self._after_document:
                self._error = self._text("the document is cut off", self._offset)
            elif not self._seen:
                self._error = self._text("there is no such member", self._offset)
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error_type(self._error)

    def _text(self, what: str, offset: int) -> str:
        return f"{self._subject}: {what} at byte {offset}"

    def _refuse(self, what: str, at: int) -> Never:
        raise _Mistake(self._text(what, self._offset + at))

    # -- around the array: every state begins at a byte that is not white space, or at the piece's end

    def _before_document(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if self._key is None:
            return self._begin_array(piece, at)
        if piece[at] != ord("{"):
            self._refuse("the document is not an object", at)
        self._push(piece, at)
        self._state = self._before_first_name
        return at + 1

    def _before_first_name(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if piece[at : at + 1] == b"}":
            return self._end_object(piece, at)
        return self._before_name(piece, at)

    def _before_name(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if piece[at] != ord('"'):
            self._refuse("a member's name is missing", at)
        self._name = bytearray()
        self._state = self._in_name
        return at + 1

    def _in_name(self, piece: bytes, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _QUOTE_OR_ESCAPE.search(piece, at)
        end = found.start() if found else len(piece)
        if self._name is not None and self._key is not None:
            self._name += piece[at:end]
            if not self._key.startswith(self._name):
                self._name = None
        if found and piece[end] == ord("\\"):
            self._escaped, self._name = True, None
        elif found:
            self._state = self._before_colon
        return min(end + 1, len(piece))

    def _before_colon(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if piece[at] != ord(":"):
            self._refuse("a colon is missing", at)
        self._state = self._before_value
        return at + 1

    def _before_value(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if self._name == self._key:
            return self._begin_array(piece, at)
        if piece[at] in b",]}":
            self._refuse("a value is missing", at)
        self._base = len(self._open)
        self._state = self._in_other_value
        return at

    def _in_other_value(self, piece: bytes, at: int) -> int:
        end = self._end_of_value(piece, at, sys.maxsize)
        return end if end == len(piece) else self._after_member(piece, end)

    def _after_member(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if piece[at] == ord(","):
            self._state = self._before_name
            return at + 1
        if piece[at] not in b"]}":
            self._refuse("a comma is missing", at)
        return self._end_object(piece, at)

    def _end_object(self, piece: bytes, at: int) -> int:
        self._pop(piece, at)
        self._state = self._after_document
        return at + 1

    def _after_document(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at < len(piece):
            self._refuse("something follows the document", at)
        return at

    # -- the array

    def _begin_array(self, piece: bytes, at: int) -> int:
        if self._seen:
            self._refuse("there is a second one", at)
        if piece[at] != ord("["):
            self._refuse("it is not an array", at)
        self._push(piece, at)
        self._seen = True
        self._base = len(self._open)
        self._state = self._before_first_element
        return at + 1

    def _before_first_element(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if piece[at : at + 1] == b"]":
            return self._end_array(piece, at)
        return self._before_element(piece, at)

    def _before_element(self, piece: bytes, at: int) -> int:
        at = _after_space(piece, at)
        if at == len(piece):
            return at
        if piece[at] in b",]":
            self._refuse("an element is empty", at)
        self._state = self._in_element
        return at

    def _in_element(self, piece: bytes, at: int) -> int:
        end = self._end_of_value(piece, at, at + self._limit - len(self._element))
        if end == len(piece):
            self._element += piece[at:]
            return end
        following = end + 1 if piece[end] == ord(",") else self._end_array(piece, end)
        if piece[end] == ord(","):
            self._state = self._before_element
        element = bytes(self._element) + piece[at:end] if self._element else piece[at:end]
        self._elements.append(element.rstrip(b" \t\r\n"))
        self._element = bytearray()
        return following

    def _end_array(self, piece: bytes, at: int) -> int:
        self._pop(piece, at)
        self._state = self._after_member if self._open else self._after_document
        return at + 1

    # -- structure

    def _end_of_value(self, piece: bytes, at: int, last: int) -> int:
        """Where its comma or bracket ends the value, else the piece's length; refused beyond `last`."""
        if self._in_string:
            at = self._rest_of_string(piece, at)
        while at < len(piece):
            deep = len(self._open) > self._base
            found = (_DEEP if deep else _SHALLOW).search(piece, at)
            if found is None:
                at = len(piece)
                break
            at = found.start()
            if piece[at] == ord('"'):
                complete = found.end() > at + 1
                at = found.end() if complete else self._rest_of_string(piece, at + 1)
            elif piece[at] in b",]}" and not deep:
                break
            else:
                self._check_length(at + 1, last)
                (self._push if piece[at] in b"[{" else self._pop)(piece, at)
                at += 1
        self._check_length(at, last)
        return at

    def _check_length(self, reached: int, last: int) -> None:
        if reached > last:
            self._error_type = ElementTooLong
            self._refuse(f"an element is longer than {self._limit} bytes", last)

    def _rest_of_string(self, piece: bytes, at: int) -> int:
        """Where the string ends that goes on at `at`; if not in this piece, the next one goes on in it."""
        if self._escaped and at < len(piece):
            self._escaped = False
            at += 1
        found = _REST_OF_STRING.match(piece, at)
        self._in_string = found is None
        if found:
            return found.end()
        if at < len(piece):
            escapes = len(piece) - len(piece[at:].rstrip(b"\\")) - at
            self._escaped = escapes % 2 == 1
        return len(piece)

    def _push(self, piece: bytes, at: int) -> None:
        if len(self._open) == _MAX_DEPTH:
            self._refuse(f"brackets are nested deeper than {_MAX_DEPTH}", at)
        self._open.append(piece[at])

    def _pop(self, piece: bytes, at: int) -> None:
        if self._open[-1] != _OPENS[piece[at]]:
            self._refuse("a bracket does not match", at)
        self._open.pop()


def _after_space(piece: bytes, at: int) -> int:
    found = _SPACE.match(piece, at)
    assert found is not None, "white space may be empty"
    return found.end()
