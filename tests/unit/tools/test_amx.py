"""The AMX figures: labelled, from the real assembly, and a measurement that runs real tiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from targets import get_target, missing_features
from tests.support.amx import Emulator, emulator_library
from tools.amx.__main__ import main, mca_cycles
from tools.amx.kernels import CASES, build, inner_loop

pytestmark = pytest.mark.compile
SPEC = get_target("x86/sapphirerapids")
needs_no_amx = pytest.mark.skipif(not missing_features(SPEC), reason="this CPU measures")


@needs_no_amx
def test_figures_are_labelled_estimated_where_nothing_can_be_measured() -> None:
    done = CliRunner().invoke(main, ["--case", "56x56x64 int8"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("estimated (this machine")
    assert " estimated of the peak" in done.output
    assert "measured" not in done.output


@needs_no_amx
def test_json() -> None:
    done = CliRunner().invoke(main, ["--case", "1024 int8", "--json"])
    line = json.loads(done.output)
    assert line["multiplications"] == 64 * 64 * 16
    assert 0.5 < line["estimated_share"] < 1.0
    assert line["measured_share"] is line["measured_seconds"] is None


def test_the_inner_loop_is_the_one_that_multiplies() -> None:
    kernel = build(CASES["conv 3x3 56x56x64 int8"], SPEC)
    loop = inner_loop(kernel)
    assert loop.multiplications == 4 * kernel.shape.plan.steps  # LLVM unrolls all nine steps
    assert loop.loads == loop.multiplications
    assert not [line for line in loop.others if "tmm" in line]


def test_llvm_mca_sees_the_other_instructions_only(tmp_path: Path) -> None:
    program = tmp_path / "mca"
    program.write_text('#!/bin/sh\ngrep -q tmm && exit 1\necho "Total Cycles:      250"\n')
    program.chmod(0o755)
    loop = inner_loop(build(CASES["conv 3x3 56x56x64 int8"], SPEC))
    assert mca_cycles(str(program), loop) == 2.5


def test_the_peak_runs_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the emulator: that it runs, not how fast."""
    from tools.amx import measure

    emulator_library()
    emulator = Emulator()
    monkeypatch.setattr(measure, "check_amx", lambda library, name: None)
    library = measure.build_peak(tmp_path)
    emulator.install()
    emulator.reset_counts()
    for bf16, name in ((0, "tdpbusd"), (1, "tdpbf16ps")):
        assert library.tilewright_amx_peak(bf16, 25) > 0
        assert emulator.count(name) == 100
    assert not emulator.is_configured()
