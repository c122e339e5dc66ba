"""The validation of estimates: what is fitted, what counts as undisturbed, what its page says."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from compiler.estimate.costs import Cost
from compiler.estimate.counting import Block
from targets import get_target
from tools.estimate_validation.fit import NAMES, elsewhere, fitted, parts_of
from tools.estimate_validation.kept import block_of, row_of
from tools.estimate_validation.page import page
from tools.estimate_validation.report import spearman
from tools.estimate_validation.truth import Alone, low


def test_shares_are_found_again_and_none_is_negative() -> None:
    draw = np.random.default_rng(0)
    parts = draw.uniform(1, 10, (60, len(NAMES)))
    wanted = np.array([0.9, 0.15, 0.0, 0.3, 2.0, 0.5])
    assert fitted(parts, parts @ wanted) == pytest.approx(wanted, abs=1e-3)
    less = fitted(parts, parts @ np.array([1.0, -0.2, 0.0, 0.0, 0.0, 0.0]))
    assert (less >= 0).all()
    assert less[1] == 0


def test_a_task_has_no_say_in_its_own_shares() -> None:
    draw = np.random.default_rng(1)
    parts = [draw.uniform(1, 10, (20, len(NAMES))).tolist() for _ in range(3)]
    cycles = [[2.0 * row[0] + row[1] for row in rows] for rows in parts]
    before = elsewhere(parts, cycles)
    assert before[0] == pytest.approx(cycles[0], rel=1e-3)
    other = elsewhere(parts, [[7.0] * 20, *cycles[1:]])
    assert other[0] == before[0]
    assert other[1] != before[1]


def test_parts_are_in_the_order_of_their_names() -> None:
    spec = get_target("x86/zen4")
    block = Block(0, 1, 1, b"\x90", 40, (20, 9, 4), (20, 9, 4), (10, 6, 3))
    parts = parts_of([block], [Cost(5.0, 3.0), Cost(1.0, 1.0)], spec)
    # Four lines of 64 bytes from memory, 4 bytes a cycle.
    assert parts == [6.0, 4.0, 7, 2, 7, 64.0]
    assert len(parts) == len(NAMES)


def test_blocks_are_kept_whole() -> None:
    block = Block(4096, 2, 7, b"\x90\xc3", 5, (3, 2, 1), (1, 1, 0), (2, 0, 0))
    assert block_of(row_of(block)) == block


def test_equal_values_share_a_rank() -> None:
    assert spearman([1, 2, 2, 3], [10, 20, 20, 30]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


def test_a_neighbour_is_noticed_and_waited_for() -> None:
    took = itertools.chain([100] * 20_000, [104, 200, 200, 101])
    alone = Alone(lambda: next(took))
    assert alone
    assert not alone
    alone.wait()  # two more: one is disturbed, the next one is not
    assert next(took, None) is None


def test_the_lower_fifth_is_taken() -> None:
    assert low([9.0, 1.0, 8.0, 2.0, 7.0]) == 2.0
    assert low([3.0]) == 3.0


def task(kind: str, rank: float, others: float) -> dict[str, Any]:
    names = ("estimate", "others", "core", "instructions", "analytic")
    ranks = dict.fromkeys(names, 0.5) | {"estimate": rank, "others": others}
    return {
        "kind": kind, "precision": "int8", "workload": f"{kind} 1x2x3 + relu", "choices": 24,
        "runs": 2, "spearman": ranks, "spearman_of_runs": 0.99, "spread": 2.0, "ratio": 1.01,
        "pick_slowdown": dict.fromkeys(names, 1.05),
    }  # fmt: skip


def test_the_page_counts_and_marks() -> None:
    ratio = {
        "kind": "int8/float32", "of": "net float32", "by": "net int8", "measured": 0.5,
        "cycles": 0.55, "core_cycles": 0.6, "instructions": 0.7, "error": 0.1,
    }  # fmt: skip
    data = {
        "cpu": "a CPU", "target": "x86/any", "model": "llvm-mca 19, any", "network_rounds": 9,
        "tasks": [task("dense", 0.95, 0.91), task("conv2d", 0.93, 0.8), task("odd", 0.5, 0.4)],
        "networks": [ratio],
        "instructions": [
            {"name": "right", "measured": 0.5, "model": 0.55, "mended": 0.5},
            {"name": "wrong", "measured": 0.5, "model": 1.0, "mended": 0.5},
        ],
    }  # fmt: skip
    text = page(data, "- **Own**: said.\n")
    assert "72 kernels of 3 tasks" in text
    assert "0.9 or more on 2 of 3 tasks" in text
    assert "more on 1, 0.70 in the mean" in text
    assert "| dense, int8 | dense 1x2x3 | 24 | 2.0 | **0.95** | 0.91 |" in text
    assert "| 0.50 | 0.40 |" in text
    assert "| int8/float32 | net float32 | net int8 | 0.50 | 0.55 | 0.60 | 0.70 | +10 % |" in text
    assert "| right | 0.50 | 0.55 | 0.50 |" in text
    assert "| wrong | 0.50 | **1.00** | 0.50 |" in text
    assert "- **Own**: said." in text
    bare = page({**data, "networks": [], "instructions": []})
    assert "Whole networks" not in bare
    assert "The model of the processor" not in bare
