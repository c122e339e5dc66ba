"""Every pass leaves a well-formed module, and can be looked at."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from compiler.frontend import import_model
from compiler.lower import lower
from compiler.stages import StageLog
from schedules.tvm_adapter import relax
from targets import get_target
from tools.dump_ir.__main__ import main

pytestmark = pytest.mark.compile


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.query, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        scores = torch.softmax(self.query(x) @ x.transpose(1, 2), -1)
        return self.head((scores @ x).mean(1))


@pytest.mark.parametrize("dynamic", [False, True])
def test_modules_are_well_formed_after_each_pass(dynamic):
    log = StageLog()
    imported = import_model(
        Net().eval(), (torch.randn(2, 3, 6, 6),), dynamic_batch=dynamic, log=log
    )
    seen = []

    def observe(number, name, module):
        seen.append((number, name))
        assert relax.analysis.check_well_formed(module), name

    lowered = lower(imported, get_target("x86/generic-avx2"), log, observe=observe)
    assert [n for n, _ in seen] == list(range(len(seen)))
    assert {name for _, name in seen} <= {r.name for r in log.records}
    assert not any(k.fallback for k in lowered.kernels)
    assert (lowered.planned_activation_bytes == 0) == dynamic


def test_dump_writes_a_file_for_each_pass(tmp_path):
    model = tmp_path / "net.py"
    model.write_text("import torch\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    result = CliRunner().invoke(
        main, [f"{model}:make", "-i", "2x4", "--target", "x86", "--to", str(tmp_path / "ir")]
    )
    assert result.exit_code == 0, result.output
    files = sorted(p.name for p in (tmp_path / "ir").iterdir())
    assert files[0] == "00-BindParameters.py"
    assert any(f.endswith("DefaultSchedules.py") for f in files)
    assert result.output.count("\n") == len(files)


def test_dump_names_a_wrong_target(tmp_path):
    model = tmp_path / "net.py"
    model.write_text("import torch\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    result = CliRunner().invoke(main, [f"{model}:make", "-i", "2x4", "--target", "x87"])
    assert result.exit_code == 1
    assert "x87" in result.output
