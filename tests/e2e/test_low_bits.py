"""One and two bits from the command line, and what the report says of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compiler import load
from compiler.cli.app import run_cli

pytestmark = [pytest.mark.compile, pytest.mark.slow]

NET = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 1, 1), nn.Conv2d(64, 64, 3, 1, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    samples = np.random.default_rng(0).normal(size=(20, 3, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", input=samples)
    return tmp_path


def compile_net(*options: str) -> int:
    arguments = ["compile", "net.py:make", "-i", "1x3x12x12", "--calibration", "samples.npz"]
    return run_cli([*arguments, *options])


def test_one_bit(folder):
    options = ("--quantize", "w1a1", "--save-plan", "plan.json", "-o", "net.tw")
    assert compile_net(*options) == 0
    plan = json.loads((folder / "plan.json").read_text())
    found = {n: o["precision"] for n, o in plan["operators"].items() if o["weight"]}
    assert found == {
        "0:conv2d": "int8", "1:conv2d": "binary", "2:conv2d": "binary", "5:matmul": "int8"
    }  # fmt: skip
    bundle = load("net.tw")
    bundle.verify()
    words = [v for n, v in bundle.parameters.items() if n.startswith("2.weight")]
    assert sum(v.nbytes for v in words) == 64 * 64 * 9 // 8


def test_a_remark_says_whether_it_pays(folder):
    assert compile_net("--quantize", "ternary", "--ends", "same", "-o", "net.tw") == 0
    kernels = load("net.tw").kernels
    remarks = [k.why for k in kernels if k.kind == "conv2d"]
    assert len(remarks) == 3
    assert all("weights of 2 bits: 0.25 of the bytes" in why for why in remarks)


def test_ends_need_few_bits(folder, capsys):
    assert compile_net("--quantize", "int8", "--ends", "same") != 0
    assert "4 bits or more" in capsys.readouterr().err
