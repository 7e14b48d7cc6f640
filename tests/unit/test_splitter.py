"""The splitter: which elements come out of which document, and what is wrong with the others.

Every test runs on both implementations, and every document once whole and once byte by byte.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from mooring.cext import DEFAULT_LIMIT
from tests.unit.cext_twins import (
    arrays_in_documents,
    broken_documents,
    cut,
    cuts,
    limits,
    native,
    needs_native,
    on_both_splitters,
    splitting,
)

LISTING = Path(__file__).parents[1] / "data/marathon-api/v2-apps-embed-tasks.json"


def outcome_of(splitter_class: Any, document: bytes, key: str | None, limit: int = 1000) -> Any:
    outcome = splitting(splitter_class, [document], key, limit)
    assert splitting(splitter_class, [bytes([byte]) for byte in document], key, limit) == outcome
    return outcome


@on_both_splitters
@pytest.mark.parametrize(
    ("document", "key", "elements"),
    [
        pytest.param(b"[]", None, [], id="empty"),
        pytest.param(b" \t\r\n[ \n] \n", None, [], id="white-space"),
        pytest.param(b"[1]", None, [b"1"], id="one"),
        pytest.param(b"[ 1 ,\n2\t]", None, [b"1", b"2"], id="trimmed"),
        pytest.param(b'[{"a": [1, {}]}, [[], [2]]]', None, [b'{"a": [1, {}]}', b"[[], [2]]"], id="nested"),
        pytest.param(
            rb'["a,]", "\"]", "\\", "\\\"["]',
            None,
            [b'"a,]"', rb'"\"]"', rb'"\\"', rb'"\\\"["'],
            id="strings",
        ),
        pytest.param(b"[nonsense, 1 2, :]", None, [b"nonsense", b"1 2", b":"], id="unjudged"),
        pytest.param(b'{"apps":[1,2]}', "apps", [b"1", b"2"], id="member"),
        pytest.param(b'{"a":[9],"apps" : [1] , "b":{"apps":[9]}}', "apps", [b"1"], id="among-others"),
        pytest.param(b'{"a":"[\\"]","app":[8],"appss":[9],"apps":[]}', "apps", [], id="similar-names"),
        pytest.param(rb'{"\u0061pps":[9],"a\"":1,"apps":[1]}', "apps", [b"1"], id="escaped-names-are-others"),
        pytest.param(b'{"":[1]}', "", [b"1"], id="empty-name"),
        pytest.param('{"\u00e4":[1]}'.encode(), "\u00e4", [b"1"], id="name-not-ascii"),
        pytest.param(b'{"apps":[1],"n":nonsense:1}', "apps", [b"1"], id="other-members-are-unjudged"),
    ],
)
def test_elements(splitter_class: Any, document: bytes, key: str | None, elements: list[bytes]) -> None:
    assert outcome_of(splitter_class, document, key) == (elements, None)


@on_both_splitters
@pytest.mark.parametrize(
    ("document", "key", "elements", "mistake"),
    [
        pytest.param(b"", None, [], "the document is cut off at byte 0", id="nothing"),
        pytest.param(b"[1, 2", None, [b"1"], "the document is cut off at byte 5", id="truncated"),
        pytest.param(
            b'{"apps":[1]', "apps", [b"1"], "the document is cut off at byte 11", id="object-truncated"
        ),
        pytest.param(b'["a\\"', None, [], "the document is cut off at byte 5", id="string-truncated"),
        pytest.param(b"{}", "apps", [], "there is no such member at byte 2", id="no-member"),
        pytest.param(b"[] x", None, [], "something follows the document at byte 3", id="trailing"),
        pytest.param(b"[1][2]", None, [b"1"], "something follows the document at byte 3", id="two-documents"),
        pytest.param(b"{}", None, [], "it is not an array at byte 0", id="object"),
        pytest.param(b"<html>", None, [], "it is not an array at byte 0", id="not-json"),
        pytest.param(b"\xef\xbb\xbf[]", None, [], "it is not an array at byte 0", id="bom"),
        pytest.param(b"[]", "apps", [], "the document is not an object at byte 0", id="array-for-object"),
        pytest.param(b'{"apps":{}}', "apps", [], "it is not an array at byte 8", id="member-is-object"),
        pytest.param(b'{"apps":null}', "apps", [], "it is not an array at byte 8", id="member-is-null"),
        pytest.param(b'{"apps":[],"apps":[]}', "apps", [], "there is a second one at byte 18", id="second"),
        pytest.param(
            b'{"apps":[1],"apps":2}', "apps", [b"1"], "there is a second one at byte 19", id="second-other"
        ),
        pytest.param(b"[,1]", None, [], "an element is empty at byte 1", id="first-empty"),
        pytest.param(b"[1, ]", None, [b"1"], "an element is empty at byte 4", id="last-empty"),
        pytest.param(b"[1,,2]", None, [b"1"], "an element is empty at byte 3", id="middle-empty"),
        pytest.param(b"[1}", None, [], "a bracket does not match at byte 2", id="wrong-end"),
        pytest.param(b"[[1}]", None, [], "a bracket does not match at byte 3", id="wrong-inside"),
        pytest.param(
            b'{"apps":[]]', "apps", [], "a bracket does not match at byte 10", id="wrong-object-end"
        ),
        pytest.param(b'{"a":[}', "apps", [], "a bracket does not match at byte 6", id="wrong-in-other"),
        pytest.param(b'{"a":1,}', "apps", [], "a member's name is missing at byte 7", id="no-name"),
        pytest.param(b'{"a" 1}', "apps", [], "a colon is missing at byte 5", id="no-colon"),
        pytest.param(b'{"a":,"b":1}', "apps", [], "a value is missing at byte 5", id="no-value"),
        pytest.param(b'{"apps":[] "b":1}', "apps", [], "a comma is missing at byte 11", id="no-comma"),
    ],
)
def test_mistakes(
    splitter_class: Any, document: bytes, key: str | None, elements: list[bytes], mistake: str
) -> None:
    subject = "JSON array: " if key is None else f'JSON array "{key}": '
    assert outcome_of(splitter_class, document, key) == (elements, subject + mistake)


@on_both_splitters
def test_elements_before_a_mistake_leave_before_it_is_raised(splitter_class: Any) -> None:
    splitter = splitter_class(None)
    assert splitter.feed(b"[1,2,]") == [b"1", b"2"]
    for call in (lambda: splitter.feed(b""), lambda: splitter.feed(b"]"), splitter.close, splitter.close):
        with pytest.raises(ValueError, match=r"^JSON array: an element is empty at byte 5$"):
            call()


@on_both_splitters
def test_a_failed_close_is_final(splitter_class: Any) -> None:
    splitter = splitter_class(None)
    splitter.feed(b"[1")
    with pytest.raises(ValueError, match="cut off at byte 2"):
        splitter.close()
    with pytest.raises(ValueError, match="cut off at byte 2"):
        splitter.feed(b"]")


@on_both_splitters
def test_closing_twice_is_fine(splitter_class: Any) -> None:
    splitter = splitter_class(None)
    splitter.feed(b"[]")
    splitter.close()
    splitter.close()
    assert splitter.feed(b" ") == []


@on_both_splitters
@pytest.mark.parametrize("document", [b'["12345678"]', b"[1,[2,3,4,56],1]", b"[1         ]", b"[   1]"])
def test_the_limit_itself_is_still_served(splitter_class: Any, document: bytes) -> None:
    elements, mistake = outcome_of(splitter_class, document, None, limit=10)
    assert [json.loads(element) for element in elements] == json.loads(document)
    assert mistake is None


@on_both_splitters
@pytest.mark.parametrize(
    ("document", "elements", "offset"),
    [
        pytest.param(b'["123456789"]', [], 11, id="string"),
        pytest.param(b"[1,[2,3,4,567],1]", [b"1"], 13, id="second"),
        pytest.param(b"[1          ]", [], 11, id="white-space-behind-it-counts"),
        pytest.param(b"[[[[[[[[[[[[", [], 11, id="brackets"),
        pytest.param(b'["123456789}"}', [], 11, id="what-stands-beyond-is-not-judged"),
        pytest.param(b"[[3456789,}]", [], "a bracket does not match at byte 10", id="what-stands-before-is"),
    ],
)
def test_an_element_over_the_limit(
    splitter_class: Any, document: bytes, elements: list[bytes], offset: int | str
) -> None:
    expected = f"an element is longer than 10 bytes at byte {offset}" if isinstance(offset, int) else offset
    assert outcome_of(splitter_class, document, None, limit=10) == (elements, f"JSON array: {expected}")


@on_both_splitters
def test_other_members_have_no_limit(splitter_class: Any) -> None:
    document = b'{"a":"' + b"x" * 5000 + b'","apps":[1]}'
    assert outcome_of(splitter_class, document, "apps", limit=10) == ([b"1"], None)


@on_both_splitters
@pytest.mark.parametrize(("key", "start"), [(None, b""), ("a", b'{"b":'), ("a", b'{"a":')])
def test_the_depth_has_a_limit(splitter_class: Any, key: str | None, start: bytes) -> None:
    fits = 512 - start.count(b"{")
    found = outcome_of(splitter_class, start + b"[" * fits, key, 2000)
    assert found[1].endswith(f"the document is cut off at byte {len(start) + fits}")
    found = outcome_of(splitter_class, start + b"[" * 513, key, 2000)
    assert found[1].endswith(f"brackets are nested deeper than 512 at byte {len(start) + fits}")
    balanced = b"[" * 511 + b"]" * 511 + b"," + b'{"a":' * 511 + b"1" + b"}" * 511
    assert len(outcome_of(splitter_class, b"[" + balanced + b"]", None, 5000)[0]) == 2


@on_both_splitters
def test_a_listing_of_marathon(splitter_class: Any) -> None:
    document = LISTING.read_bytes()
    elements, mistake = outcome_of(splitter_class, document, "apps", DEFAULT_LIMIT)
    assert mistake is None
    assert [json.loads(element) for element in elements] == json.loads(document)["apps"]


@on_both_splitters
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        ((b"apps",), TypeError),
        ((7,), TypeError),
        (('a"b',), ValueError),
        (("a\\b",), ValueError),
        (("a\nb",), ValueError),
        (("\ud800",), UnicodeEncodeError),
        ((None, 0), ValueError),
        ((None, 1 << 80), ValueError),
        ((None, "1"), TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    splitter_class: Any, arguments: tuple[Any, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        splitter_class(*arguments)


@on_both_splitters
@pytest.mark.parametrize("wrong", ["text", None, 7])
def test_what_is_no_buffer_is_refused(splitter_class: Any, wrong: Any) -> None:
    splitter = splitter_class(None)
    with pytest.raises(TypeError):
        splitter.feed(wrong)
    assert splitter.feed(bytearray(b"[1,")) + splitter.feed(memoryview(b"2]")) == [b"1", b"2"]


@needs_native
def test_in_c_a_large_element_leaves_no_large_buffer() -> None:
    assert native is not None
    splitter = native.ArraySplitter(None)
    splitter.feed(b'["')
    for _ in range(80):
        splitter.feed(b"x" * 65_536)
    assert sys.getsizeof(splitter) > 5_000_000
    assert len(splitter.feed(b'",')) == 1
    assert sys.getsizeof(splitter) < 100_000


@on_both_splitters
@given(drawn=arrays_in_documents(), cuts=cuts)
def test_every_array_comes_out_whole(splitter_class: Any, drawn: Any, cuts: list[int]) -> None:
    document, key, expected = drawn
    elements, mistake = splitting(splitter_class, cut(document, cuts), key, DEFAULT_LIMIT)
    assert mistake is None
    assert [json.loads(element.decode("utf-8", "surrogatepass")) for element in elements] == expected
    assert all(element == element.strip(b" \t\r\n") for element in elements)


@on_both_splitters
@given(drawn=broken_documents(), cuts=cuts, limit=limits)
def test_no_cut_changes_the_outcome(splitter_class: Any, drawn: Any, cuts: list[int], limit: int) -> None:
    document, key = drawn
    whole = splitting(splitter_class, [document], key, limit)
    assert splitting(splitter_class, cut(document, cuts), key, limit) == whole
    assert splitting(splitter_class, [bytes([byte]) for byte in document], key, limit) == whole


@on_both_splitters
@given(drawn=broken_documents())
def test_what_a_decoder_accepts_is_not_refused(splitter_class: Any, drawn: Any) -> None:
    document, _ = drawn
    try:
        decoded = json.loads(document)
    except (ValueError, RecursionError):
        return
    if isinstance(decoded, list):
        elements, mistake = splitting(splitter_class, [document], None, DEFAULT_LIMIT)
        assert mistake is None
        assert [json.loads(element) for element in elements] == decoded
