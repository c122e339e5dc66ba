"""What is written is read back equal; what does not fit names its place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.codec import DecodeError, decode, encode


@dataclass(frozen=True)
class Leaf:
    number: float
    text: str = ""

    def __post_init__(self) -> None:
        if self.text == "bad":
            raise ValueError("text must not be bad")


@dataclass(frozen=True)
class Tree:
    count: int
    flag: bool
    leaf: Leaf | None
    leaves: tuple[Leaf, ...]
    names: frozenset[str]
    shape: tuple[int | str, ...]
    table: Mapping[str, Leaf]
    rate: float | None = None
    anything: Mapping[str, Any] = field(default_factory=dict)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.builds(Leaf, NUMBERS, st.text(max_size=4).filter(lambda text: text != "bad"))
TREES = st.builds(
    Tree,
    count=st.integers(),
    flag=st.booleans(),
    leaf=st.none() | LEAVES,
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    names=st.frozensets(st.text(max_size=4)),
    shape=st.lists(st.integers() | st.text(max_size=4), max_size=4).map(tuple),
    table=st.dictionaries(st.text(max_size=4), LEAVES, max_size=3),
    rate=st.none() | NUMBERS,
    anything=st.dictionaries(st.text(max_size=4), st.none() | st.booleans() | st.lists(NUMBERS)),
)
TREE = Tree(1, True, Leaf(0.5), (Leaf(1.5, "x"),), frozenset("ba"), (1, "n"), {"a": Leaf(2.5)})


@given(TREES)
def test_round_trip(tree: Tree) -> None:
    assert decode(Tree, json.loads(json.dumps(encode(tree), allow_nan=False))) == tree


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_only_where_they_are_allowed(number: float) -> None:
    text = json.dumps(encode(Leaf(number), non_finite=True), allow_nan=False)
    again = decode(Leaf, json.loads(text), non_finite=True).number
    assert again == number or (math.isnan(again) and math.isnan(number))
    with pytest.raises(TypeError, match="has no place"):
        encode(Leaf(number))
    with pytest.raises(DecodeError, match=r"\$\.number: expected a number, found str"):
        decode(Leaf, json.loads(text))


def test_sets_are_sorted_and_whole_numbers_serve_as_floats() -> None:
    data = encode(TREE)
    assert data["names"] == ["a", "b"]
    number = decode(Leaf, {"number": 3}).number
    assert (number, type(number)) == (3.0, float)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes has no place"):
        encode({"a": [b"x"]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": True}, "$.count: expected int, found bool"),
        ({"count": 1.0}, "$.count: expected int, found float"),
        ({"count": None}, "$.count: expected int, found NoneType"),
        ({"flag": 1}, "$.flag: expected bool, found int"),
        ({"leaf": []}, "$.leaf: expected dict, found list"),
        ({"leaf": {"number": True}}, "$.leaf.number: expected a number, found bool"),
        ({"leaf": {"number": 10**400}}, "$.leaf.number: number too large"),
        ({"leaf": {"number": 1, "text": "bad"}}, "$.leaf: text must not be bad"),
        ({"leaves": [{"number": 1}, {}]}, "$.leaves[1]: missing field 'number'"),
        ({"names": "ab"}, "$.names: expected list, found str"),
        ({"shape": [1, True]}, "$.shape[1]: expected int or str, found bool"),
        ({"shape": [None]}, "$.shape[0]: expected int or str, found NoneType"),
        ({"table": {"k": 1}}, "$.table.k: expected dict, found int"),
        ({"rate": "fast"}, "$.rate: expected a number, found str"),
        ({"y": 1, "x": 1}, "$: unknown field 'x', 'y'"),
    ],
)
def test_a_value_that_does_not_fit_names_its_place(change: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(Tree, {**encode(TREE), **change})
    assert str(caught.value) == says
