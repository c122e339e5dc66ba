"""What scheduling models have wrong is mended, and chains through the stack are seen."""

from __future__ import annotations

import re
import shutil

import pytest

from compiler.estimate.chains import carried_cycles
from compiler.estimate.costs import BlockCosts, CostModel, cost_model, cycles_of_lines
from compiler.estimate.counting import Block
from compiler.estimate.models import MENDS, mended
from targets import get_target
from tools.estimate_validation.instructions import CASES, body

HAS_MCA = shutil.which("llvm-mca-19") is not None or shutil.which("llvm-mca") is not None
needs_mca = pytest.mark.skipif(not HAS_MCA, reason="needs llvm-mca")


def zen_4() -> CostModel:
    model = cost_model(get_target("x86/zen4"))
    assert model.processor == "znver4"
    return model


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("vbroadcastss\t-12(%rdi,%rax), %ymm3", "vmovups -12(%rdi,%rax), %ymm3"),
        ("vpbroadcastd\t(%rdi), %xmm3", "vmovups (%rdi), %xmm3"),
        ("vpmovzxbd\t8(%rdi), %ymm3", "vbroadcastss 8(%rdi), %ymm3"),
        ("vmovups\t%ymm3, 64(%rsp)", "movq %rsp, 64(%rsp)"),
        ("vmovq\t%xmm3, (%rsi)", "movq %rsp, (%rsi)"),
        ("vmaxps\t(%rdi), %ymm1, %ymm2", "vaddps (%rdi), %ymm1, %ymm2"),
        ("vpackusdw\t%ymm0, %ymm1, %ymm2", "vpunpckldq %ymm0, %ymm1, %ymm2"),
        ("vextracti128\t$1, %ymm4, %xmm5", "vpshufd $1, %xmm4, %xmm5"),
        ("vpermq\t$216, %ymm4, %ymm5", "vpshufd $216, %ymm4, %ymm5"),
    ],
)
def test_instructions_are_asked_about_as_others(line: str, instead: str) -> None:
    assert mended([f"\t{line}  # a remark"], "znver4") == [f"\t{instead}"]
    assert mended([f"\t{line}"], "neoverse-n1") == [f"\t{line}"]


@pytest.mark.parametrize(
    "line",
    ["vmovups\t(%rdi), %ymm0", "vbroadcastss\t%xmm0, %ymm0", "vpmovzxbd\t%xmm0, %ymm0",
     "vmovaps\t%ymm0, %ymm1", "movq\t%rax, (%rdi)", "vfmadd231ps\t(%rdi), %ymm0, %ymm1"],
)  # fmt: skip
def test_what_the_model_has_right_stays(line: str) -> None:
    assert mended([f"\t{line}"], "znver4") == [f"\t{line}"]


def test_every_fault_is_among_what_is_measured() -> None:
    lines = [line.strip().replace("\t", " ", 1) for _, case in CASES for line in body(case)]
    for mend in MENDS["znver4"]:
        assert any(re.fullmatch(mend.pattern, line) for line in lines), mend.fault


@needs_mca
def test_mended_code_takes_other_cycles() -> None:
    model = zen_4()
    bodies = {name: body(lines) for name, lines in CASES}
    names = ("load that widens bytes", "pack", "maximum, addition", "load")
    before = cycles_of_lines([bodies[name] for name in names], model)
    after = cycles_of_lines([mended(bodies[name], "znver4") for name in names], model)
    for one, other, ratio in zip(before, after, (1 / 3, 1 / 2, 2, 1), strict=True):
        assert one is not None
        assert other is not None
        assert other / one == pytest.approx(ratio, rel=0.05)


FMA, STORE, LOAD = (
    "\tvfmadd231ps\t%ymm2, %ymm1, %ymm0", "\tvmovups\t%ymm0, 32(%rsp)",
    "\tvmovups\t32(%rsp), %ymm0",
)  # fmt: skip


def test_a_sum_on_the_stack_waits_for_its_store() -> None:
    assert carried_cycles([FMA]) == 0.0
    assert carried_cycles([LOAD, FMA, STORE]) == 14.0
    assert carried_cycles([FMA, STORE, "\tvfmadd213ps\t32(%rsp), %ymm1, %ymm0"]) == 18.0
    # Another place, or a result that nobody goes on with: no chain.
    assert carried_cycles([LOAD.replace("32", "64"), FMA, STORE]) == 0.0
    fresh = ["\tvmovups\t(%rdi), %ymm0", STORE, "\tvaddps\t32(%rsp), %ymm3, %ymm4"]
    assert carried_cycles(fresh) == 0.0
    zeroed = ["\tvxorps\t%xmm0, %xmm0, %xmm0", FMA, STORE, LOAD]
    assert carried_cycles(zeroed) == 0.0


@needs_mca
def test_code_takes_its_chain_and_its_bound() -> None:
    # vmovups (%rsp), %ymm0; vfmadd231ps %ymm2, %ymm1, %ymm0; vmovups %ymm0, (%rsp)
    code = bytes.fromhex("c5fc100424c4e275b8c2c5fc110424")
    (cost,) = BlockCosts(zen_4()).costs([Block(0, 3, 10, code)])
    assert cost.cycles == pytest.approx(140.0)
    assert 5.0 <= cost.bound <= 15.0
