"""A record has one form, says nothing impossible, and comes back as it was."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.records import (
    Baseline,
    Check,
    Cpu,
    Measurement,
    Provenance,
    Record,
    RecordError,
    choice_of,
)
from schedules.records.strict import MAX_BYTES, canonical
from schedules.workload import Workload
from targets import get_target
from tests.support.examples import some_of
from tests.unit.records.samples import VERSIONS, conv, provenance, record


def damaged(change: Callable[[dict[str, Any]], None]) -> bytes:
    document = record().to_json()
    document = json.loads(json.dumps(document))
    change(document)
    return canonical(document)


def test_round_trip() -> None:
    one = record()
    data = one.to_bytes()
    again = Record.from_bytes(data)
    assert again == one
    assert again.to_bytes() == data
    assert again.workload == one.workload
    assert again.provenance == one.provenance
    assert again.measurement == one.measurement
    assert one.id == hashlib.sha256(data).hexdigest()
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
    assert hash(again) == hash(one)


def test_a_file_is_small_text() -> None:
    data = record().to_bytes()
    assert len(data) < 4096
    assert data.endswith(b"}\n")
    assert data.isascii()


def test_the_target_is_whole() -> None:
    for name in ("x86/sapphirerapids", "arm/rpi5", "vta/pynq", "x86/host"):
        spec = get_target(name)
        read = Record.from_bytes(record(target=spec).to_bytes()).provenance.spec
        assert replace(read, sources=(), status="", available=True) == replace(
            spec, sources=(), status="", available=True
        )


def test_provenance_of_this_machine() -> None:
    here = Provenance.here(get_target("x86"), versions=VERSIONS, session="s", threads=2)
    assert here.cpu == Cpu.here()
    assert here.cpu.features == get_target("x86").features
    assert here.spec.name == "x86/host"
    one = replace(record(), provenance=here)
    assert Record.from_bytes(one.to_bytes()).provenance == here


def test_what_a_record_says() -> None:
    one = record(ns=100_000.0, baseline_ns=200_000.0)
    assert one.median_ns == 100_000.0
    assert one.relative == 0.5
    assert one.gflops == 2312.0
    assert record(baseline_ns=None).relative is None


def test_a_choice_belongs_to_the_caller() -> None:
    one = record()
    choice_of(one)["tile"].append(1)
    assert choice_of(one) == {"algorithm": "direct", "tile": [6, 32]}
    with pytest.raises(TypeError):
        one.choice["tile"] = 1  # type: ignore[index]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=10),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)


@settings(max_examples=some_of(60, 30), deadline=None)
@given(
    choice=st.dictionaries(NAMES, JSON_VALUES, max_size=6),
    attributes=st.dictionaries(NAMES, JSON_VALUES, max_size=4),
    samples=st.lists(st.floats(0.1, 1e12), min_size=1, max_size=20),
    flops=st.floats(0, 1e17),
    error=st.floats(0, 1e-3),
)
def test_every_record_has_one_form(
    choice: dict[str, Any],
    attributes: dict[str, Any],
    samples: list[float],
    flops: float,
    error: float,
) -> None:
    one = replace(
        record(),
        workload=conv(attributes=attributes),
        choice={**choice, "algorithm": "direct"},
        measurement=Measurement.of(samples),
        flops=flops,
        check=Check(error, 1e-3),
    )
    data = one.to_bytes()
    again = Record.from_bytes(data)
    assert again.to_bytes() == data
    assert again.id == one.id
    assert again.workload.key == one.workload.key
    assert canonical(json.loads(data)) == data


@settings(max_examples=some_of(300, 100), deadline=None)
@given(st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    """Bytes changed, cut out or put in, anywhere: a `RecordError`, or a record of its own."""
    content = record().to_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    put = data.draw(
        st.binary(max_size=12)
        | st.sampled_from([b"NaN", b"-1", b"1e999", b"[[[", b"{}", b"null", b"true", b'"\\u001b"'])
    )
    changed = content[:start] + put + content[end:]
    with suppress(RecordError):
        assert Record.from_bytes(changed).to_bytes() == changed


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [p for key in value for p in paths(value[key], (*path, key))]
    elif isinstance(value, list):
        found += [p for i in range(len(value)) for p in paths(value[i], (*path, i))]
    return found


PATHS = paths(record().to_json())
WRONG = [
    None,
    True,
    -1,
    0,
    1.5,
    2**60,
    "",
    "x",
    "\x1b[31m",
    [],
    [1],
    {},
    {"a": 1},
    [[[[[[[[1]]]]]]]],
]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: ".".join(map(str, p)))
def test_wrong_values_anywhere(path: tuple[Any, ...]) -> None:
    for wrong in WRONG:
        document = copy.deepcopy(json.loads(json.dumps(record().to_json())))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = wrong
        data = canonical(document)
        with suppress(RecordError):
            assert Record.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe{}", "ASCII"),
        (b"[]\n", "no JSON object but a list"),
        (b"{}\n", "no record of Tilewright"),
        (b'{"schema":2}\n', "its schema is 2, and this release knows 1"),
        (b'{"schema":true}\n', "no record of Tilewright"),
        (b'{"schema":0}\n', "no schema 0"),
        (b'{"schema":1}\n', "record.measurement is missing"),
        (b'{"a":NaN}\n', "NaN, which is not finite"),
        (b'{"a":-Infinity}\n', "not finite"),
        (b'{"a":1e999}\n', "not finite"),
        (b'{"a":' + b"1" * 5000 + b"}\n", "no JSON"),
        (b'{"a":9007199254740993}\n', "beyond 2**53"),
        (b"[" * 100_000, "lists and objects"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested deeper"),
        (b" " * (MAX_BYTES + 1), "more than"),
        (b'{"a":"\\u001b[2J"}\n', "control characters"),
        (b'{"a":"\\ud800"}\n', "control characters"),
        (b'{"a":"' + b"x" * 2000 + b'"}\n', "too long"),
        (b'{"tuning_record":[]}\n', "no record of Tilewright"),
    ],
    ids=lambda v: v[:20].decode("latin-1") if isinstance(v, bytes) else "",
)
def test_what_is_no_record(data: bytes, says: str) -> None:
    with pytest.raises(RecordError) as caught:
        Record.from_bytes(data)
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(code="import os"), "unknown field 'code'"),
        (lambda d: d["provenance"].update(host="me"), "unknown field 'host'"),
        (lambda d: d["workload"].update(operator="../../etc"), "no operator's name"),
        (lambda d: d["workload"].update(data=[1, -5]), "no list of extents"),
        (lambda d: d["workload"].update(data=[2**40]), "impossible size"),
        (lambda d: d["choice"].pop("algorithm"), "names no algorithm"),
        (lambda d: d["choice"].update({"a/b": 1}), "no decision's name"),
        (lambda d: d["measurement"].update(median=5.0), "not that of its samples"),
        (lambda d: d["measurement"].update(samples=[]), "no samples"),
        (lambda d: d["measurement"].update(samples=[-1.0]), "impossible"),
        (lambda d: d["measurement"].update(unit="ms"), "must be 'ns'"),
        (lambda d: d["measurement"].update(label="guessed"), "label"),
        (lambda d: d["check"].update(max_relative_error=0.5), "was off by"),
        (lambda d: d.update(check=None), "not checked"),
        (lambda d: d["provenance"].update(date="2026-13-22T07:00:00Z"), "no UTC time"),
        (lambda d: d["provenance"].update(date="2026-1-2T07:00:00Z"), "no full one"),
        (lambda d: d["provenance"].update(parent="abc"), "no record's ID"),
        (lambda d: d["provenance"]["versions"].pop("llvm"), "version of llvm"),
        (lambda d: d["provenance"]["target"].update(name="x86"), "target is impossible"),
        (lambda d: d["provenance"]["target"].pop("cores"), "target is impossible"),
        (lambda d: d["provenance"]["cpu"].update(cores=0), "0 cores"),
        (lambda d: d["provenance"].update(threads=0), "0 threads"),
        (lambda d: d.update(flops=-1.0), "impossible"),
    ],
)
def test_what_is_impossible(change: Callable[[dict[str, Any]], None], says: str) -> None:
    with pytest.raises(RecordError) as caught:
        Record.from_bytes(damaged(change))
    assert says in caught.value.message


def test_one_form_only() -> None:
    data = record().to_bytes()
    for other in (
        data.replace(b":", b": ", 1),
        data.rstrip(b"\n"),
        data + b"\n",
        data.replace(b'{"baseline"', b'{"baseline":null,"baseline"'),
        data.replace(b"231200000.0", b"2.312e8"),
        data.replace(b"231200000.0", b"231200000"),
        json.dumps(record().to_json(), indent=1).encode(),
    ):
        assert other != data
        with pytest.raises(RecordError) as caught:
            Record.from_bytes(other)
        assert "canonical form" in caught.value.message


def test_impossible_records_cannot_be_made() -> None:
    for make in (
        lambda: Measurement.of([]),
        lambda: Measurement.of([float("nan")]),
        lambda: Measurement("measured", (1.0,), 2.0),
        lambda: Baseline({"tile": 1}, 1.0),
        lambda: Check(float("nan"), 1.0),
        lambda: record(choice={"algorithm": "a", "x": float("inf")}),
        lambda: record(choice={"algorithm": "a", "x": object()}),
        lambda: provenance(versions={}),
        lambda: provenance(date="yesterday"),
        lambda: record(Workload("Conv 2d", (1,), (), (1,), ("a", "b", "c"), "")),
    ):
        with pytest.raises(RecordError):
            make()


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, schedules.records as r\n"
        "r.default_stores()\n"
        "heavy = {'tvm', 'tvm_ffi', 'torch', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
