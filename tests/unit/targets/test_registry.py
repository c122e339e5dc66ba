"""Targets are found by name, family, alias, file or as themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from targets import (
    FAMILIES,
    FAMILY_FACTS,
    TargetNotAvailableError,
    UnknownTargetError,
    get_target,
    host_target,
    list_targets,
    require_available,
    target_names,
)
from targets.families import DATA
from targets.host import is_x86

NAMED_DEVICES = [
    "x86/generic-avx2", "x86/cascadelake", "x86/sapphirerapids", "x86/zen4",
    "x86/skylake-avx512", "x86/haswell", "arm/cortex-a53", "arm/cortex-a72", "arm/rpi4",
    "arm/rpi5", "arm/neoverse-n1", "arm/neoverse-v1", "arm/armv7", "cuda/sm_75", "cuda/sm_80",
    "cuda/sm_86", "cuda/sm_87", "cuda/sm_89", "cuda/sm_90", "cuda/jetson-orin", "vta/pynq",
    "vta/ultra96", "vta/de10nano",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMED_DEVICES)
def test_named_device(name: str) -> None:
    assert get_target(name).family == name.split("/", maxsplit=1)[0]


def test_every_listed_target_is_found_by_its_name() -> None:
    specs = list_targets()
    assert [s.family for s in specs] == sorted((s.family for s in specs), key=FAMILIES.index)
    assert [get_target(s.name) for s in specs] == list(specs)
    assert {s.name for s in specs} <= set(target_names())


@pytest.mark.parametrize("family", ["arm", "cuda", "vta"])
def test_family_default(family: str) -> None:
    assert get_target(family).name == FAMILY_FACTS[family].default
    assert {s.family for s in list_targets(family)} == {family}


@pytest.mark.skipif(not is_x86(), reason="the host of this test is no x86")
def test_x86_is_the_host() -> None:
    assert get_target("x86") is host_target()
    assert list_targets("x86")[0] is host_target()


def test_alias() -> None:
    assert get_target("cuda/sm_87").name == "cuda/jetson-orin"


def test_spec_and_file(tmp_path: Path) -> None:
    spec = get_target("arm/rpi4")
    assert get_target(spec) is spec
    mine = tmp_path / "mine.toml"
    mine.write_text((DATA / "arm/rpi4.toml").read_text().replace('"arm/rpi4"', '"arm/mine"', 1))
    assert get_target(mine).name == get_target(str(mine)).name == "arm/mine"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("x86/saphirerapids", "x86/sapphirerapids"),
        ("sapphirerapids", "x86/sapphirerapids"),
        ("rpi", "arm/rpi4"),
        ("CUDA/SM_80", "cuda/sm_80"),
        ("pynq", "vta/pynq"),
        ("x68", "x86"),
    ],
)
def test_near_matches(typed: str, meant: str) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        get_target(typed)
    assert repr(typed) in caught.value.message
    assert meant in (caught.value.hint or "")


def test_nothing_near_lists_the_families() -> None:
    with pytest.raises(UnknownTargetError, match="the families: x86, arm, cuda, vta"):
        get_target("toaster-9000")
    with pytest.raises(UnknownTargetError, match="no target family 'mips'"):
        list_targets("mips")


def test_require_available() -> None:
    require_available(get_target("x86/generic-avx2"))
    with pytest.raises(TargetNotAvailableError) as caught:
        require_available(get_target("cuda"))
    assert FAMILY_FACTS["cuda"].status in str(caught.value)
    assert "\n" not in FAMILY_FACTS["cuda"].status


def test_importing_targets_imports_no_compiler() -> None:
    code = "import sys, targets; print([m for m in ('tvm', 'torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
