"""A target's description is checked key by key; every mistake names file, key and remedy."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from targets import TargetError, parse_target, read_target
from targets.families import DATA, FAMILY_FACTS

GOOD: dict[str, Any] = {
    "name": "x86/mine",
    "title": "My machine",
    "tvm": {"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "haswell"},
    "features": ["avx2", "fma"],
    "cores": 4,
    "clock_hz": "3.5 GHz",
    "caches": [
        {"level": 1, "size_bytes": "32 KiB", "line_bytes": 64, "ways": 8, "shared_by_cores": 1}
    ],
    "memory_bytes": "8 GiB",
    "memory_bandwidth_bytes_per_s": 25.6e9,
    "peak_ops_per_cycle": {"float32": 32},
    "vector_bits": 256,
    "vector_registers": 16,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """`GOOD` with one key, named by a dotted path, set to `value` (deleted for ...)."""
    data = copy.deepcopy(GOOD)
    at: Any = data
    *parents, last = [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in parents:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return data


def test_units_become_base_units() -> None:
    spec = parse_target(GOOD, where="mine.toml")
    assert spec.clock_hz == 3.5e9
    assert spec.memory_bytes == 8 * 2**30
    assert spec.caches[0].size_bytes == 32 * 1024
    assert spec.memory_bandwidth_bytes_per_s == 25.6e9
    assert spec.peak_ops_per_s("float32", cores=4) == 32 * 3.5e9 * 4
    assert spec.vector_lanes("float32") == 8
    assert spec.cache_bytes(1) == 32768
    assert spec.cache_bytes(3) == 0
    assert spec.has("avx2", "fma")
    assert not spec.has("avx2", "avx512f")


def test_family_decides_what_is_available() -> None:
    assert parse_target(GOOD, where="t").available
    assert not parse_target({**GOOD, "available": False}, where="t").available
    # A file cannot claim a back end that does not exist.
    cuda = json.loads(json.dumps(read_target(DATA / "cuda/sm_80.toml").to_dict()))
    assert not parse_target({**cuda, "available": True}, where="t").available


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("cores", ..., "key 'cores' is missing"),
        ("peak_ops_per_cycle", ..., "key 'peak_ops_per_cycle' is missing"),
        ("caches.0.ways", ..., "key 'caches[0].ways' is missing"),
        ("clock", 1, "key 'clock' is unknown\n  hint: did you mean 'clock_hz'?"),
        ("caches.0.size", 1, "key 'caches[0].size' is unknown"),
        ("name", "mine", "'family/device'"),
        ("name", "gpu/mine", "unknown family 'gpu'"),
        ("family", "arm", "the name says 'x86'"),
        ("title", " ", "key 'title' must be a text"),
        ("cores", "4", "key 'cores' must be a whole number"),
        ("cores", True, "key 'cores' must be a whole number"),
        ("cores", 0, "impossible"),
        ("clock_hz", 3.5, "key 'clock_hz' is 3.5 Hz, which is impossible"),
        ("clock_hz", "3.5 GB", "one of the units Hz, kHz, MHz, GHz"),
        ("clock_hz", "fast", "one of the units Hz, kHz, MHz, GHz"),
        ("clock_hz", True, "must be a number in Hz"),
        ("clock_hz", float("nan"), "impossible"),
        ("memory_bytes", "8 GHz", "one of the units B, KiB"),
        ("memory_bytes", -1, "impossible"),
        ("memory_bytes", 65536.5, "whole number of bytes"),
        ("memory_bandwidth_bytes_per_s", "25.6 GB", "one of the units B/s"),
        ("features", "avx2", "must be a list of texts"),
        ("features", [1], "must be a list of texts"),
        ("tvm", "llvm", "key 'tvm' must be a table"),
        ("tvm.kind", ..., "key 'tvm.kind' is missing"),
        ("tvm.kind", "cuda", "family 'x86' needs 'llvm'"),
        ("tvm.mattr", [None], "key 'tvm.mattr[0]' must be"),
        ("caches", {}, "must be a list of tables"),
        ("caches.0.line_bytes", 48, "no power of two"),
        ("caches.0.level", 9, "impossible"),
        ("caches", [GOOD["caches"][0]] * 2, "each level once"),
        ("peak_ops_per_cycle", {}, "at least one dtype"),
        ("peak_ops_per_cycle", {"float31": 1}, "'peak_ops_per_cycle.float31' is no dtype"),
        ("peak_ops_per_cycle.float32", "many", "must be a number"),
        ("peak_ops_per_cycle.float32", -1, "impossible"),
        ("vector_bits", 100, "no multiple of 64"),
        ("vector_datapath_bits", 512, "impossible"),
        ("available", "yes", "must be true or false"),
    ],
)
def test_mistake(path: str, value: Any, says: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_target(changed(path, value), where="mine.toml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("mine.toml: ")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("path", sorted(DATA.glob("*/*.toml")), ids=lambda p: p.stem)
def test_every_device_reads_and_survives_json_and_pickle(path: Path) -> None:
    spec = read_target(path)
    assert spec.name == f"{path.parent.name}/{path.stem}"
    assert parse_target(json.loads(json.dumps(spec.to_dict())), where="again") == spec
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301  our own bytes
    assert copy.deepcopy(spec) == spec
    assert hash(spec) == hash(read_target(path))
    assert spec.sources, "facts need a source"
    assert spec.status == FAMILY_FACTS[spec.family].status


def test_a_spec_cannot_be_changed() -> None:
    spec = parse_target({**GOOD, "extra": {"nested": {"list": [1, 2]}}}, where="t")
    with pytest.raises(AttributeError):
        spec.cores = 8  # type: ignore[misc]
    with pytest.raises(TypeError):
        spec.tvm["mcpu"] = "znver4"  # type: ignore[index]
    with pytest.raises(TypeError):
        spec.extra["nested"]["list"] = []
    assert spec.extra["nested"]["list"] == (1, 2)
    plain = spec.tvm_dict()
    plain["mcpu"] = "znver4"
    assert spec.tvm["mcpu"] == "haswell"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such target file"),
        (b"name = ", "no valid TOML"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "key 'name' is missing"),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TargetError, match=says) as caught:
        read_target(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_no_target_file(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="cannot be read"):
        read_target(tmp_path)
