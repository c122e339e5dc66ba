"""A precision for each layer: from the metric to the compiled model, and from the shell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compiler import Bundle, Quantize, compile
from compiler.cli.app import run_cli
from compiler.errors import InputError
from compiler.mixed import search

pytestmark = pytest.mark.compile
SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def make() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(8)]


def metric(run: Any) -> float:
    """Less the more the outputs are off PyTorch's, in shares of them; 1 for none."""
    net, worst = make(), 0.0
    for x in images(1):
        want = net(torch.from_numpy(x)).detach().numpy()
        worst = max(worst, float(np.abs(np.asarray(run(x)) - want).max() / np.abs(want).max()))
    return 1.0 - worst


def build(evaluate: Any = metric, **options: Any) -> Bundle:
    return compile(
        make(),
        example_inputs=(images()[0],),
        name="net",
        quantize=Quantize(**options),
        calibration=images(),
        evaluate=evaluate,
        measure=False,  # times are estimated, so that the choice is the same on any machine
    )


def precisions(bundle: Bundle) -> dict[str, str]:
    assert bundle.plan is not None
    found = bundle.plan.operators.items()
    return {
        n: o.precision if o.weight is None else f"{o.precision} {o.weight.dtype}"
        for n, o in found
        if o.kind in ("nn.conv2d", "matmul")
    }


def remark(bundle: Bundle) -> str:
    (stage,) = [s for s in bundle.manifest.stages if s.name == "choose precisions"]
    return stage.detail


@pytest.mark.slow
def test_the_budget_decides_and_the_journal_remembers(tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    nothing = build(max_drop=0.0, max_evaluations=8, resume=journal)
    assert set(precisions(nothing).values()) == {"float32"}
    assert metric(nothing) > 0.9999
    lines = len(journal.read_text().splitlines())
    tight = build(max_drop=0.01, max_evaluations=8, resume=journal)
    assert metric(tight) >= metric(make_run()) - 0.01
    assert "from an earlier run" in remark(tight)
    wide = build(max_drop=0.9, max_evaluations=8, resume=journal)
    assert all(name.startswith("int8") for name in precisions(wide).values())
    assert len(journal.read_text().splitlines()) - lines <= 8
    with pytest.raises(InputError, match="another search"):
        build(max_drop=0.9, resume=journal, calibrate="minmax")


def make_run() -> Any:
    net = make()
    return lambda x: net(torch.from_numpy(x)).detach().numpy()


@pytest.mark.slow
def test_an_interrupted_search_keeps_the_best_so_far() -> None:
    calls = [0]

    def interrupted(run: Any) -> float:
        calls[0] += 1
        if calls[0] == 4:  # PyTorch, all float32, the second uniform one ...
            raise KeyboardInterrupt
        return metric(run)

    bundle = build(interrupted, max_drop=0.9, max_evaluations=6)
    assert "interrupted" in remark(bundle)
    assert bundle.plan is not None


@pytest.mark.parametrize(
    ("evaluate", "says"),
    [
        (None, "no metric that could drop"),
        (lambda run: float("nan"), "gave nan"),
        (lambda run: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_metrics_that_cannot_drop(evaluate: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        build(evaluate, max_drop=0.1)


def test_a_metric_that_fails_on_a_compiled_model() -> None:
    def fails(run: Any) -> float:
        if isinstance(run, Bundle):
            raise OSError("no")
        return 1.0

    with pytest.raises(InputError, match="a compiled model"):
        build(fails, max_drop=0.1)


@pytest.mark.slow
def test_the_uniform_plans_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    original = search._Search._try

    def spy(self: Any, name: str, choices: Any) -> Any:
        tried.append(name)
        return original(self, name, choices)

    monkeypatch.setattr(search._Search, "_try", spy)
    build(max_drop=0.9, max_evaluations=2)
    assert tried[0] == "all float32"
    assert len(tried) == 2


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import numpy as np, torch\nfrom torch import nn\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(288, 4)).eval()\n"
        "def metric(run):\n    x = np.ones((1, 3, 8, 8), 'float32')\n"
        "    return float(np.asarray(run(x)).max())\n"
    )
    np.savez(tmp_path / "samples.npz", input=np.concatenate(images()))
    file = str(tmp_path / "net.py")
    common = ["compile", f"{file}:make", "-i", "1x3x8x8", "-o", str(tmp_path / "net.tw"),
              "--no-measure", "--quantize", "int8", "--calibration",
              str(tmp_path / "samples.npz"), "--max-drop", "10"]  # fmt: skip
    code = run_cli([*common, "--evaluate", f"{file}:metric", "--max-evaluations", "2"])
    assert code == 0, capsys.readouterr().err
    for wrong, says in (
        ([], "--evaluate"),
        (["--evaluate", f"{file}:accuracy"], "no function 'accuracy'"),
        (["--evaluate", f"{file}x:accuracy"], "FILE.py:FUNCTION"),
        (["--evaluate", f"{tmp_path}/none.py:accuracy"], "no file"),
    ):
        capsys.readouterr()
        assert run_cli([*common, *wrong]) != 0
        assert says in re.sub(r"\s+", " ", capsys.readouterr().err)
