"""Candidates for a device that is not here: counted, checked, and each fault costs itself only."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.errors import CompileError, EmulationError, InputError
from compiler.estimate.measurer import check_estimable, create_estimator
from compiler.search import check_measurable, is_foreign
from compiler.tune.measure.base import Failed, Measured, Measurer, Rejected
from compiler.tune.measure.settings import Limits
from compiler.tune.options import Tune
from targets import get_target
from tests.support.boards import estimates
from tests.unit.tune.measure.kernels import MODULE, Task

SPEC = get_target("arm/cortex-a72")
RIGHT = {"do": "right"}


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    limits = Limits(run_s=3.0, memory_bytes=4 << 30)
    with closing(create_estimator(SPEC, workers=1, kernels=MODULE, limits=limits)) as found:
        yield found


def measure(measurer: Measurer, *choices: dict, task: Task | None = None) -> list:
    return measurer.measure(task or Task(), list(choices), cancel=threading.Event())


@estimates
@pytest.mark.compile
def test_candidates_are_estimated_and_say_so(measurer: Measurer) -> None:
    plain, packed = measure(measurer, RIGHT, {"do": "right", "packed": True})
    (again,) = measure(measurer, RIGHT)
    (long,) = measure(measurer, RIGHT, task=Task(n=1 << 16))
    for outcome in (plain, packed, long):
        assert isinstance(outcome, Measured), outcome
        assert len(outcome.samples_ns) == 1
        assert 0 <= outcome.max_relative_error <= outcome.tolerance == 1e-4
    assert again.samples_ns == plain.samples_ns  # nothing of it is a clock's
    # Sixteen times the work, which does not fit into the first cache any more.
    assert 10 < long.samples_ns[0] / plain.samples_ns[0] < 200
    assert measurer.label == "estimated"
    assert measurer.runner.startswith("estimated: llvm-mca")
    assert measurer.runner.endswith("cortex-a72")
    assert measurer.cpu.features == SPEC.features


@estimates
@pytest.mark.compile
@pytest.mark.parametrize("do", ["wrong", "nothing", "overrun"])
def test_what_is_not_the_references_output_is_rejected(measurer: Measurer, do: str) -> None:
    bad, right = measure(measurer, {"do": do}, RIGHT)
    assert isinstance(bad, Rejected), bad
    assert isinstance(right, Measured)


@pytest.mark.slow
@estimates
@pytest.mark.compile
@pytest.mark.parametrize(
    ("do", "kind", "reason"),
    [
        ("abort", "crash", "SIGABRT"),
        ("segfault", "crash", "SIGSEGV"),
        ("illegal", "crash", "an instruction that this processor does not have"),
        ("endless", "timeout", "3 s in emulation"),
        ("refuse", "build", "this choice cannot be built"),
    ],
)
def test_a_dangerous_candidate_costs_itself_only(
    measurer: Measurer, do: str, kind: str, reason: str
) -> None:
    bad, right = measure(measurer, {"do": do}, RIGHT, task=Task(n=1024))
    assert isinstance(bad, Failed), bad
    assert bad.kind == kind
    assert reason in bad.reason
    assert isinstance(right, Measured), right


@pytest.mark.slow
@estimates
@pytest.mark.compile
@pytest.mark.parametrize("dtype", ["int8", "uint8", "bfloat16", "float16"])
def test_dtypes(measurer: Measurer, dtype: str) -> None:
    right, wrong = measure(measurer, RIGHT, {"do": "wrong"}, task=Task(dtype=dtype))
    assert isinstance(right, Measured), right
    assert isinstance(wrong, Rejected), wrong


@pytest.mark.slow
@estimates
@pytest.mark.compile
def test_a_reference_that_fails_is_named(measurer: Measurer) -> None:
    (outcome,) = measure(measurer, RIGHT, task=Task(broken_reference=True))
    assert isinstance(outcome, Failed)
    assert "the reference kernel" in outcome.reason


@estimates
@pytest.mark.compile
def test_cancelling_says_nothing_about_candidates(measurer: Measurer) -> None:
    cancel = threading.Event()
    cancel.set()
    (outcome,) = measurer.measure(Task(), [RIGHT], cancel=cancel)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "cancelled"


def test_missing_programs_are_found_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError, match="qemu-aarch64 is not installed"):
        check_measurable(SPEC, Tune(), 1)


@estimates
def test_each_of_them_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("qemu-aarch64",):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError, match="llvm-mca is not installed"):
        check_estimable(SPEC)
    release = next(n for n in ("-19", "") if shutil.which(f"llvm-mca{n}", path="/usr/bin"))
    for name in (f"llvm-mca{release}", f"llvm-mc{release}"):
        (tmp_path / name).symlink_to(shutil.which(name, path="/usr/bin") or "")
    monkeypatch.setenv("TILEWRIGHT_CROSS_LINKER", "gcc")
    with pytest.raises(CompileError, match="no linker for aarch64"):
        check_estimable(SPEC)
    monkeypatch.delenv("TILEWRIGHT_CROSS_LINKER")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing is built yet
    with pytest.raises(EmulationError, match="no C compiler for the emulator's plugin"):
        check_estimable(SPEC)


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match="not on 2"):
        create_estimator(SPEC, threads=2)
    with pytest.raises(InputError, match="0 build workers"):
        create_estimator(SPEC, workers=0)


def test_only_other_machines_are_emulated() -> None:
    assert is_foreign(SPEC)
    assert not is_foreign(get_target("x86"))
    assert not is_foreign(replace(SPEC, tvm={"mtriple": "x86_64-unknown-linux-gnu"}))
