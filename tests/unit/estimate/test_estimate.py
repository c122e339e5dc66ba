"""Counting in emulation and estimating cycles: exact counts, plausible costs, named faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compiler
from compiler.cli.app import run_cli
from compiler.errors import EmulationError
from compiler.estimate import costs, counting
from compiler.estimate.costs import BlockCosts, cost_model
from compiler.estimate.counting import Block
from compiler.estimate.profile import _memory_cycles
from compiler.stages import KernelInfo
from targets import get_target
from tests.support.boards import counts_cycles, estimates

SPEC = get_target("arm/rpi4")
# add v0.4s, v0.4s, v1.4s; fmla v0.4s, v1.4s, v2.4s
ADD, FMLA = bytes.fromhex("0084a14e"), bytes.fromhex("20cc224e")


def test_blocks_of_one_address_are_one_and_others_are_left_out() -> None:
    text = "1000 2 5 aabb\n1000 2 7 aabb\nffff0000 1 9 cc\n1010 1 1 dd\nend\n"
    blocks = counting._read(text, 0x1000, 0x1100)
    assert blocks == (Block(0, 2, 12, b"\xaa\xbb"), Block(16, 1, 1, b"\xdd"))


@pytest.mark.parametrize("text", ["", "1000 2 5 aabb\n"])
def test_incomplete_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="incomplete"):
        counting._read(text, 0, 10)


def test_the_modules_place_in_memory() -> None:
    maps = "1000-2000 r--p 0 0 0 /x/run\n5500-5600 r--p 0 0 0 /x/module.so\n"
    maps += "7000-7800 r-xp 0 0 0 /x/module.so\n9000-9100 r--p 0 0 0 /x/other.so\n"
    assert counting._range(maps, Path("/elsewhere/module.so")) == (0x5500, 0x7800)
    with pytest.raises(ValueError, match="not in memory"):
        counting._range("", Path("module.so"))


def test_missing_programs_say_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationError, match="qemu-aarch64 is not installed") as caught:
        counting.emulator(SPEC)
    assert "apt-get install qemu-user" in str(caught.value)
    with pytest.raises(EmulationError, match="llvm-mca is not installed"):
        cost_model(SPEC)
    with pytest.raises(EmulationError, match="qemu-arm is not installed") as caught:
        counting.emulator(get_target("arm/armv7"))
    assert "libc6-armhf-cross" in str(caught.value)


@counts_cycles
def test_a_chain_costs_its_latency() -> None:
    model = cost_model(SPEC)
    chain = Block(0, 8, 10, FMLA * 8)
    wide = Block(64, 8, 10, ADD + FMLA * 7)
    cycles = BlockCosts(model).totals([chain, wide])
    # Eight multiply-adds into one register, each waiting for the one before, ten times.
    assert cycles[0] >= 10 * 8 * 3
    assert len(cycles) == 2


@counts_cycles
def test_blocks_that_hardly_run_get_the_mean_rate(monkeypatch) -> None:
    monkeypatch.setattr(costs, "COVERED", 0.5)
    hot, cold = Block(0, 8, 1000, FMLA * 8), Block(64, 4, 1, ADD * 4)
    cycles = BlockCosts(cost_model(SPEC)).totals([hot, cold])
    assert cycles[1] == pytest.approx(cycles[0] / 1000 / 2)


def test_memory_takes_longer_from_further_away() -> None:
    def info(size: float) -> KernelInfo:
        return KernelInfo("k", "dense", (), "r", False, 0.0, size, 0.0, "float32")

    sizes = [16e3, 512e3, 64e6]
    rates = [_memory_cycles(info(size), SPEC) / size for size in sizes]
    assert rates == sorted(rates)
    assert rates == [1 / 16, 1 / 8, 1 / 4]


@pytest.mark.compile
@estimates
def test_a_model_is_counted_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 1)
    ).eval()
    paths = []
    for side in (16, 32):
        bundle = compiler.compile(
            net, "arm/rpi4", example_inputs=(torch.randn(1, 8, side, side),), measure=False
        )
        paths.append(str(bundle.save(tmp_path / f"{side}.tw")))
    assert run_cli(["estimate", *paths, "--json"]) == 0
    small, large = json.loads(capsys.readouterr().out)
    assert run_cli(["estimate", paths[0], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)[0]
    assert again["instructions"] == small["instructions"]
    # Four times the pixels are about four times the work.
    assert 3 < large["instructions"] / small["instructions"] < 5
    assert 3 < large["cycles"] / small["cycles"] < 5
    kernels = {kernel["kind"] for kernel in large["kernels"]}
    assert "conv2d" in kernels
    for kernel in large["kernels"]:
        # Eight operations a cycle is what a Cortex-A72 can do; Winograd's algorithm counts as more.
        assert kernel["flops"] <= 32 * kernel["cycles"]
    assert run_cli(["estimate", *paths]) == 0
    assert "times fewer cycles than" in capsys.readouterr().out
