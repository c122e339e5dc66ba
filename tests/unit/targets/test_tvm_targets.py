"""What the data files say about TVM and LLVM is true of the TVM that is installed."""

import pytest

from targets import get_target, list_targets
from targets.cpuinfo import LINUX_TO_LLVM
from targets.families import DATA
from targets.host import CPU_FEATURES

pytestmark = pytest.mark.compile

X86 = sorted(p.stem for p in (DATA / "x86").glob("*.toml"))
KNOWN = {name for names in LINUX_TO_LLVM.values() for name in names}


def llvm_features(tvm_dict: dict[str, object]) -> set[str]:
    from tvm.target import Target, codegen

    return {str(name) for name in codegen.llvm_get_cpu_features(Target(tvm_dict))}


def test_every_target_constructs() -> None:
    from tvm.target import Target

    for spec in list_targets():
        assert Target(spec.tvm_dict()).kind.name == spec.tvm["kind"], spec.name


@pytest.mark.parametrize("mcpu", CPU_FEATURES)
def test_llvm_assumes_no_more_than_we_check(mcpu: str) -> None:
    """Otherwise the host check would let code through that dies with SIGILL."""
    llvm = llvm_features({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": mcpu})
    assert llvm & KNOWN == CPU_FEATURES[mcpu][1]


@pytest.mark.parametrize("device", ["host", *X86])
def test_features_are_those_that_llvm_uses(device: str) -> None:
    spec = get_target(f"x86/{device}")
    assert llvm_features(spec.tvm_dict()) & KNOWN == spec.features


@pytest.mark.parametrize("path", sorted((DATA / "arm").glob("*.toml")), ids=lambda p: p.stem)
def test_arm_features_are_known_to_llvm(path: object) -> None:
    spec = get_target(f"arm/{getattr(path, 'stem', '')}")
    assert spec.features <= llvm_features(spec.tvm_dict())
