"""VTA from end to end: compile, run on the simulator, save, load, report, command line, errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle, Quantize, compile, load
from compiler.cli.app import run_cli
from compiler.errors import (
    BundleError,
    CalibrationError,
    DeviceError,
    DeviceTimeoutError,
    EmulationError,
    InputError,
    PlanError,
    TargetError,
)
from compiler.frontend import import_model
from compiler.lower.plain import reference_outputs
from compiler.package.manifest import VTA
from compiler.report import Report
from compiler.runtime.vta.simulated import SimulatedDriver
from compiler.stages import StageLog
from targets import get_target
from targets.vta import VtaConfig
from targets.vta.program import ProgramError

pytestmark = pytest.mark.compile
SHAPE = (2, 3, 12, 12)


class Net(nn.Module):
    """A residual block on two images at once; the head's result is float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU())
        self.two = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(self.two(self.one(x)) + x)
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


class Encoder(nn.Module):
    """A transformer's layer: its attention and residual paths, of 16 bits, are the host's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 64)
        self.layer = nn.TransformerEncoderLayer(
            64, 4, 128, dropout=0.0, activation="gelu", batch_first=True
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.layer(self.embed(x)).mean(1))
        return y


def make() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(count: int = 20, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


def on_vta(target: Any = "vta", **options: Any) -> Bundle:
    given: dict[str, Any] = {"calibration": images(), "measure": False, **options}
    return compile(make(), target, example_inputs=(images(1)[0],), name="net", **given)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return on_vta(measure=True)


def test_the_bits_are_those_of_the_reference_and_of_x86(bundle: Bundle) -> None:
    assert bundle.vta is not None
    assert bundle.plan is not None
    assert len(bundle.vta.regions) == 1
    assert bundle.vta.regions[0].batch == 2
    x86 = compile(
        make(), example_inputs=(images(1)[0],), name="net", quantize=bundle.plan, measure=False
    )
    assert x86.manifest.golden_sha256 == bundle.manifest.golden_sha256
    imported = import_model(make(), (torch.from_numpy(images(1)[0]),), name="net", log=StageLog())
    for x in images(3, seed=1):
        (want,) = reference_outputs(imported, get_target("x86"), bundle.plan, [x])
        assert (bundle(x) == want).all()
        assert (x86(x) == want).all()


def test_the_recipe_is_the_default_one(bundle: Bundle) -> None:
    assert bundle.plan is not None
    assert bundle.plan.recipe["power_of_two"] is True
    assert bundle.target.name == "vta/pynq"


def test_a_saved_bundle_runs_and_tests_itself(bundle: Bundle, tmp_path: Path) -> None:
    again = load(bundle.save(tmp_path / "net.tw"))
    assert again.verify().same_bits is True
    assert again.executor.programs is not None
    assert bundle.executor.programs is not None
    assert again.executor.programs.cycles() == bundle.executor.programs.cycles()
    folder = load(bundle.save(tmp_path / "net", folder=True), device="simulator")
    assert (folder(images(1)[0]) == bundle(images(1)[0])).all()


def test_an_estimate_is_refused(bundle: Bundle, tmp_path: Path, capsys) -> None:
    saved = str(bundle.save(tmp_path / "net.tw"))
    assert run_cli(["estimate", saved]) == EmulationError.exit_code
    said = capsys.readouterr().err
    assert "VTA" in said
    assert "tilewright report" in said


def test_the_report_says_where_cycles_go(bundle: Bundle, tmp_path: Path) -> None:
    report = bundle.report
    assert isinstance(report, Report)
    found = report.vta
    assert found is not None
    assert found.cycles.label == "simulated"
    assert found.host_time.label == "measured"
    assert bundle.executor.programs is not None
    (cycles,) = bundle.executor.programs.cycles()
    assert found.cycles.value == cycles
    assert found.time.value == pytest.approx(1e3 * found.cycles.value / 100e6)
    assert found.total.value == pytest.approx(found.time.value + found.host_time.value)
    assert [row.name for row in found.layers][:2] == ["stem.0:conv2d", "one.0:conv2d"]
    single = found.cycles.value / 2
    assert 0.9 * single < sum(row.cycles.value for row in found.layers) <= single
    assert any("VTA stores 8 bits" in row.why for row in found.host)
    text = report.to_text()
    assert "one.0:conv2d" in text
    assert "On the host, and why" in text
    page = report.to_html(tmp_path / "r.html").read_text()
    assert "plot-vta-queues" in page
    assert "plot-vta-roofline" in page
    assert Report.from_json(report.to_json()).vta == found


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),"
        " nn.Flatten(), nn.Linear(8192, 4))\n"
    )
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((6, 3, 20, 20)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    arguments = [
        "compile",
        "net.py:make",
        "-i",
        "1x3x20x20",
        "--target",
        "vta/ultra96",
        "-o",
        "n.tw",
    ]
    assert run_cli([*arguments, "--no-measure"]) == 5  # there is no calibration
    assert run_cli([*arguments, "--calibration", "x.npy", "--html", "r.html"]) == 0
    capsys.readouterr()
    assert run_cli(["run", "n.tw", "--verify", "--bench", "2"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"VTA: [\d,]+ cycles, [\d.]+ ms at 333 MHz \(simulated", shown)
    assert "the host's part" in shown
    assert run_cli(["inspect", "n.tw", "--vta"]) == 0
    shown = capsys.readouterr().out
    assert "GEMM" in shown
    assert "; t.0:conv2d" in shown
    assert run_cli(["inspect", "n.tw", "--vta", "--json", "--layer", "t.2:conv2d"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["layer"] for row in document["instructions"][0]} == {"t.2:conv2d"}
    assert run_cli(["inspect", "n.tw", "--vta", "--layer", "none"]) == 5
    assert run_cli(["inspect", "n.tw", "--layer", "none"]) == 2
    assert run_cli(["report", "n.tw"]) == 0
    assert "On VTA" in capsys.readouterr().out
    assert run_cli(["run", "n.tw", "--device", "zedboard"]) == 9
    assert run_cli([*arguments, "--calibration", "x.npy", "--quantize", "int8"]) == 5


@pytest.mark.slow
def test_ones_own_configuration(tmp_path: Path) -> None:
    source = (Path(__file__).parents[2] / "targets/data/vta/pynq.toml").read_text()
    mine = tmp_path / "mine.toml"
    mine.write_text(
        source.replace('name = "vta/pynq"', 'name = "vta/mine"')
        .replace("log_block = 4", "log_block = 3")
        .replace("log_wgt_buff_size = 18", "log_wgt_buff_size = 16")
        .replace("log_inp_buff_size = 15", "log_inp_buff_size = 13")
        .replace("log_acc_buff_size = 17", "log_acc_buff_size = 15")
    )
    made = on_vta(mine)
    assert made.vta is not None
    assert made.vta.config.block == 8
    x = images(1, seed=5)[0]
    x86 = compile(make(), example_inputs=(x,), name="net", quantize=made.plan, measure=False)
    assert (made(x) == x86(x)).all()
    mine.write_text(source.replace("log_block = 4", "block = 12"))
    with pytest.raises(TargetError, match="no power of two"):
        on_vta(mine)
    mine.write_text(source.replace("log_wgt_buff_size = 18", "log_wgt_buff_size = 7"))
    with pytest.raises(TargetError, match="too small for one weight tile"):
        on_vta(mine)


class Deaf(SimulatedDriver):
    """A board that does not answer."""

    def wait(self, timeout_s: float) -> None:
        raise DeviceTimeoutError(f"it did not answer within {timeout_s:g} s", where="deaf")


def test_a_device_that_does_not_answer(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.save(tmp_path / "net.tw")
    deaf = load(path, device=Deaf(VtaConfig()))
    with pytest.raises(DeviceTimeoutError, match="did not answer"):
        deaf(images(1)[0])
    with pytest.raises(ProgramError, match="made for another VTA"):
        load(path, device=SimulatedDriver(VtaConfig(inp_buffer_bytes=1 << 14)))(images(1)[0])
    with pytest.raises(DeviceError, match="cannot be"):
        load(path, device="pynq")(images(1)[0])


@pytest.mark.slow
def test_the_host_part_is_compiled_for_the_board() -> None:
    made = on_vta("vta/ultra96", host="board")
    assert made.manifest.platform.machine == "aarch64"
    assert made.manifest.golden_source == "reference"
    assert made.vta is not None
    assert made.vta.regions


def test_a_truncated_program_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle.save(tmp_path / "net", folder=True)
    program = folder / "region0.vta"
    program.write_bytes(program.read_bytes()[:-40])
    with pytest.raises(BundleError, match="bytes, but the manifest says"):
        load(folder)
    other = bundle.save(tmp_path / "other", folder=True)
    (other / VTA).unlink()
    with pytest.raises(BundleError, match="missing"):
        load(other)


def test_what_vta_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration samples"):
        on_vta(calibration=None)
    with pytest.raises(InputError, match="only shifts"):
        on_vta(quantize="int8")
    with pytest.raises(InputError, match="int8 activations"):
        on_vta(quantize="int8-weights", calibration=None)
    plain = compile(
        make(), example_inputs=(images(1)[0],), quantize="int8", calibration=images(),
        measure=False,
    )  # fmt: skip
    with pytest.raises(PlanError, match="powers of two"):
        on_vta(quantize=plain.plan, calibration=None)
    with pytest.raises(InputError, match="no VTA programs"):
        load(plain.save(tmp_path / "plain.tw"), device="simulator")
    with pytest.raises(InputError, match="is a processor itself"):
        compile(make(), "x86", example_inputs=(images(1)[0],), host="x86")


def test_a_transformer_has_the_bits_of_x86() -> None:
    torch.manual_seed(0)
    net = Encoder().eval()
    samples = [(torch.randn(1, 12, 16),) for _ in range(4)]
    given: dict[str, Any] = {"example_inputs": samples[0], "calibration": samples, "measure": False}
    there = compile(net, "vta", **given)
    here = compile(net, "x86", quantize=Quantize(power_of_two=True), **given)
    assert there.vta is not None
    assert sum(len(region.layers) for region in there.vta.regions) >= 1
    assert there.manifest.golden_sha256 == here.manifest.golden_sha256
