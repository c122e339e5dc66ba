"""A small bundle whose code is an empty ELF file: all that reading and checking needs."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.package import Bundle, GoldenPair, Manifest
from compiler.package.host import installed_versions
from compiler.package.manifest import Platform
from compiler.stages import KernelInfo, StageRecord, TensorSpec
from targets import get_target

#: A shared object for x86-64 as far as its header goes.
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, 62) + bytes(60)


@dataclass
class FakeReport:
    """A report that is one line of JSON."""

    text: str = '{"figures": [1, 2]}'

    def to_json(self) -> str:
        return self.text

    def to_html(self, path: str | Path) -> Path:
        raise NotImplementedError


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        name="tiny",
        created="2026-11-22T03:00:00+00:00",
        inputs=(TensorSpec("x", ("batch", 4), "float32"),),
        outputs=(TensorSpec("y", ("batch", 2), "float32"),),
        parameters=(
            TensorSpec("weight", (4, 2), "float32"),
            TensorSpec("bias", (2,), "float32"),
            TensorSpec("scale", (), "int64"),
        ),
        target=replace(get_target("x86/generic-avx2"), features=frozenset({"sse2"})),
        required_features=("sse2",),
        platform=Platform("Linux", "x86_64"),
        threads=1,
        toolchain=installed_versions(),
        planned_activation_bytes=64,
        golden_source="compiled",
        golden_tolerance=1e-5,
        kernels=(
            KernelInfo("fused_dense", "dense", ("matmul", "add"), "dense", False, 64.0, 72.0, 16.0,
                       "float32"),
        ),
        stages=(StageRecord("frontend", "export", 12.5, "one graph"),),
    )  # fmt: skip
    return replace(manifest, **changes)


def make_bundle(**changes: Any) -> Bundle:
    rng = np.random.default_rng(0)
    parameters = {
        "weight": rng.standard_normal((4, 2)).astype(np.float32),
        "bias": np.zeros(2, np.float32),
        "scale": np.array(3),
    }
    golden = GoldenPair(
        (rng.standard_normal((3, 4)).astype(np.float32),),
        (rng.standard_normal((3, 2)).astype(np.float32),),
    )
    return Bundle(make_manifest(**changes), ELF, parameters, golden, report=FakeReport())


@pytest.fixture
def bundle() -> Bundle:
    return make_bundle()


@pytest.fixture
def make() -> Any:
    """`make(**changes)`: a bundle with another manifest."""
    return make_bundle


@pytest.fixture
def zip_path(bundle: Bundle, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "net.tw")


@pytest.fixture
def folder_path(bundle: Bundle, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "net", folder=True)
