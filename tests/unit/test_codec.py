"""Bad input B2 to B5: what JSON is refused, and that the rest survives to the byte."""

from __future__ import annotations

import contextlib
import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq_core.errors import InvalidJson, TooLarge
from taskq_core.model.codec import MAX_DEPTH, MAX_KEYS, decode_json, digest, encode_json


class Shot(msgspec.Struct):
    exposure: float


@dataclasses.dataclass
class Frame:
    exposure: float


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (nested(100_000), "nested deeper"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
        (b"[" + b",".join(b'{"a":1}' for _ in range(MAX_KEYS + 1)) + b"]", "more than 10000 keys"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b"1e400", "out of range"),
        (b"-1e400", "out of range"),
        (b"1e-20000", "out of range"),
        (b"0e99999", "out of range"),
        (b"0." + b"1" * 500, "out of range"),
        (b"1" * 5000, "5000 digits"),
        (b"-" + b"9" * 401, "402 digits"),
        (b'{"a":1,"a":2}', "'a' stands twice"),
        (b'[{"b":{"a":1,"\\u0061":2}}]', "'a' stands twice"),
        (b'"\\u0000"', "U.0000"),
        (b'{"\\u0000":1}', "U.0000"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'"\xff\xfe"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"[1,]", "not JSON"),
        (b'"\n"', "not JSON"),
        (b"01", "not JSON"),
    ],
)
def test_refuses_what_the_history_could_not_keep(text: bytes, why: str) -> None:
    with pytest.raises(InvalidJson, match=why):
        decode_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (nested(MAX_DEPTH), None),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"\\\\u0000"', "\\u0000"),
        (b"9007199254740993", 2**53 + 1),
        (b"1180591620717411303424", 2**70),
        (b"1e308", 1e308),
        (b"1e-300", 1e-300),
        (b"[]", []),
        (b"{}", {}),
        (b" null ", None),
        (b"9" * 400, int("9" * 400)),
    ],
)
def test_accepts(text: bytes, value: object) -> None:
    decoded = decode_json(text)
    assert value is None or decoded == value


def test_limit_counts_bytes() -> None:
    assert decode_json(b'"1234"', limit=6) == "1234"
    with pytest.raises(TooLarge, match="6 bytes; the limit is 5"):
        decode_json(b'"1234"', limit=5)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("inf")]},
        Shot(float("nan")),
        [Frame(float("nan"))],
        {float("nan")},
        "\0",
        {"a\0": 1},
        "\ud800",
        {"\udfff": 1},
        object(),
        {"a": object()},
        {1: "a", "1": "b"},
        dict.fromkeys(map(str, range(MAX_KEYS + 1))),
        10**401,
    ],
    ids=repr,
)
def test_refuses_to_write(value: object) -> None:
    with pytest.raises(InvalidJson):
        encode_json(value)


def test_refuses_to_write_too_deep_and_endless_values() -> None:
    deep: list[object] = []
    for _ in range(MAX_DEPTH):
        deep = [deep]
    with pytest.raises(InvalidJson, match="nested deeper"):
        encode_json(deep)
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InvalidJson):
        encode_json(endless)


@pytest.mark.parametrize(
    "value", [2**53 + 1, 2**70, -(2**70), {"1": "a"}, {1: "a"}, [], {}, Shot(1.5), (1, 2)]
)
def test_writes_compactly(value: object) -> None:
    assert b" " not in encode_json(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_can_be_read(value: object) -> None:
    assert decode_json(encode_json(value)) == value


@given(st.binary(max_size=200))
def test_bytes_give_a_value_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(InvalidJson):
        decode_json(raw)


def test_digest_frames_its_parts() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"ab", b"c") == digest(b"ab", b"c")
    assert len(digest(b"")) == 32
