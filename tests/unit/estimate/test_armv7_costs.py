"""Cycles of 32-bit ARM's code: a model that stands in, no faster than the processor's units."""

from __future__ import annotations

import pytest

from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import Block
from compiler.estimate.issue import issue_cycles
from compiler.estimate.measurer import estimate_blocks
from targets import get_target
from tests.support.boards import counts_cycles

SPEC = get_target("arm/armv7")
# add r0, r0, r1; vfma.f32 q8, q9, q10; vfma.f32 q11, q9, q10
ADD, FMA, FMA_11 = (bytes.fromhex(code) for code in ("010080e0", "f40c42f2", "f46c42f2"))


@pytest.mark.parametrize(
    ("line", "cycles"),
    [
        ("\tadd\tr0, r0, r1", 0.5),
        ("\tvfma.f32\tq8, q9, q10", 4),
        ("\tvfma.f32\td8, d9, d10", 2),
        ("\tvmla.f32\ts0, s1, s2", 1),
        ("\tvmull.s8\tq8, d18, d19", 2),
        ("\tvadd.i16\td8, d9, d10", 1),
        ("\tvld1.32\t{d16, d17}, [r0:128]!", 2),
        ("\tvldmia\tlr, {d16, d17, d18, d19}", 4),
        ("\tvldr\td16, [r0, #8]", 1),
        ("\tvmul.f64\td5, d16, d10", 4),
        ("\tvadd.f64\td5, d16, d10", 1),
    ],
)
def test_instructions_take_the_units_of_the_processor(line: str, cycles: float) -> None:
    assert issue_cycles([line]) == cycles
    assert issue_cycles([line, line]) == 2 * cycles


@counts_cycles
def test_the_model_that_stands_in_is_named() -> None:
    model = cost_model(SPEC)
    assert str(model).endswith(", swift for cortex-a7")
    assert (model.family, model.in_order) == ("arm", True)
    assert cost_model(get_target("arm/rpi5")).stands_for == "cortex-a76"
    assert not cost_model(get_target("arm/rpi4")).in_order


@counts_cycles
def test_vectors_are_no_faster_than_the_peak_rate() -> None:
    costs = BlockCosts(cost_model(SPEC))
    # Two chains, far too few to hide the latency, and none.
    chains, adds = Block(0, 16, 10, (FMA + FMA_11) * 8), Block(4096, 8, 10, ADD * 8)
    cycles = costs.totals([chains, adds])
    peak = SPEC.peak_ops_per_cycle["float32"]
    assert cycles[0] >= 10 * 16 * 8 / peak
    assert cycles[1] == pytest.approx(10 * 8, rel=0.2)  # each waits for the one before
    whole = estimate_blocks([chains], costs, SPEC)
    assert whole.cycles == pytest.approx(whole.core_cycles + whole.stall_cycles)


@counts_cycles
def test_code_of_the_other_instruction_set_takes_the_mean_rate() -> None:
    thumb = bytes.fromhex("0846") + bytes.fromhex("704700bf")  # mov r0, r1; bx lr; nop
    blocks = [Block(0, 8, 10, ADD * 8), Block(0x9002, 3, 10, thumb), Block(0x9008, 1, 10, ADD)]
    cycles = BlockCosts(cost_model(SPEC)).totals(blocks)
    assert cycles[1] == pytest.approx(cycles[0] * 3 / 8)
    # In the same page, though all its instructions have four bytes.
    assert cycles[2] == pytest.approx(cycles[0] / 8)
