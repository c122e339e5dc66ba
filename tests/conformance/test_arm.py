"""Kernels for ARM on emulated processors, from the smallest that a target's code must run on.

`python -m tools.arm_conformance` does the same with more cases, and with whole networks.
"""

from __future__ import annotations

import random
from functools import partial

import pytest

from targets import get_target
from tests.conformance.kernel_suite import KernelSuite
from tests.support.boards import emulates
from tests.support.emulated import RUNS_ON, EmulatedExecutor, EmulationFailedError
from tests.support.integer_cases import KINDS, check
from tests.support.low_bits_cases import LOW_KINDS, LowMaker

pytestmark = [pytest.mark.compile, emulates]


@pytest.mark.slow
class TestCortexA53(KernelSuite):
    target = "arm/cortex-a53"
    executor = partial(EmulatedExecutor, cpu="cortex-a53")


@pytest.mark.slow
class TestCortexA72(KernelSuite):
    target = "arm/rpi4"
    executor = partial(EmulatedExecutor, cpu="cortex-a53")


@pytest.mark.slow
class TestNeoverseN1(KernelSuite):
    target = "arm/neoverse-n1"
    executor = partial(EmulatedExecutor, cpu="neoverse-n1")


@pytest.mark.slow
class TestNeoverseV1(KernelSuite):
    target = "arm/neoverse-v1"
    executor = partial(EmulatedExecutor, cpu=RUNS_ON["arm/neoverse-v1"][0])


def integers(target: str, seed: int, count: int, draws: int) -> None:
    source = random.Random(f"arm {seed}")
    maker = LowMaker(source)
    cases = [maker.case(source.choice((*KINDS, *LOW_KINDS))) for _ in range(count)]
    executors = [partial(EmulatedExecutor, cpu=cpu) for cpu in RUNS_ON[target]]
    check(cases, get_target(target), draws, seed, executors)


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNS_ON)
@pytest.mark.parametrize("seed", [1, 2])
def test_integers_have_the_references_bits(target: str, seed: int) -> None:
    integers(target, seed, 12, 4)


def test_a_few_integers_on_every_processor() -> None:
    integers("arm/cortex-a53", 3, 5, 2)


@pytest.mark.slow
def test_an_instruction_that_is_not_there_is_found() -> None:
    """Else code that runs without it would prove nothing."""
    maker = LowMaker(random.Random(5))
    cases = [maker.case("conv2d") for _ in range(3)]
    smaller = [partial(EmulatedExecutor, cpu="cortex-a53")]
    with pytest.raises(EmulationFailedError, match="on cortex-a53: an illegal instruction"):
        check(cases, get_target("arm/neoverse-n1"), 1, 5, smaller)
