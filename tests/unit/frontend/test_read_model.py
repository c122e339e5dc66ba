from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compiler.errors import ModelError
from compiler.frontend import read_model

SOURCE = """
from dataclasses import dataclass

import torch
from neighbour import WIDTH
from torch import nn


@dataclass
class Config:
    width: int = WIDTH


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(Config().width, 2)

    def forward(self, x):
        return self.fc(x)


def with_inputs():
    return Net(), (torch.zeros(1, 3),)


def broken():
    raise RuntimeError("no weights here")


def number():
    return 7


SIZE = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("neighbour", None)


def test_a_factory_may_be_a_class_or_return_inputs_too(file: Path) -> None:
    search_path = list(sys.path)
    model, inputs, name = read_model(f"{file}:Net")
    assert isinstance(model, nn.Module)
    assert (inputs, name) == (None, "Net")
    model, inputs, name = read_model(f"{file}:with_inputs")
    assert inputs[0].shape == (1, 3)
    assert sys.path == search_path
    assert "net" not in sys.modules


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("missing", r"no 'missing' in it[\s\S]*with_inputs"),
        ("broken", r"net.py:\d+: broken\(\) failed: RuntimeError: no weights here"),
        ("number", "returned a int"),
        ("SIZE", "not a function"),
    ],
)
def test_a_bad_factory_is_named(file: Path, factory: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_model(f"{file}:{factory}")


def test_a_file_that_does_not_run_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import torch\nimport no_such_package\n")
    with pytest.raises(ModelError, match=r"bad.py:2: the file does not run: ModuleNotFoundError"):
        read_model(f"{path}:make")
    with pytest.raises(ModelError, match="there is no file"):
        read_model(f"{tmp_path / 'absent.py'}:make")


@pytest.mark.parametrize("spec", ["net.py", "weights.pt", "net.onnx", "resnet18"])
def test_a_spec_that_names_no_model_says_what_would(spec: str) -> None:
    with pytest.raises(ModelError, match="does not name a model") as caught:
        read_model(spec)
    assert "factory" in str(caught.value)


def test_weights_are_loaded_strictly(file: Path, tmp_path: Path) -> None:
    state = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("w.safetensors", "w.pt", "wrapped.pt"):
        model, _, _ = read_model(f"{file}:Net", weights=tmp_path / name)
        assert isinstance(model, nn.Module)
        assert model.state_dict()["fc.weight"].sum() == 6
    torch.save({"fc.weight": torch.ones(3, 3), "head.bias": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(ModelError) as caught:
        read_model(f"{file}:Net", weights=tmp_path / "x.pt")
    text = str(caught.value)
    assert "1 missing: fc.bias" in text
    assert "1 unexpected: head.bias" in text
    assert "fc.weight is (3, 3), the model has (2, 3)" in text


class Payload:
    """Its unpickling would run a function: it must never happen."""

    ran = False

    def __reduce__(self) -> object:
        return (_run, ())


def _run() -> dict[str, int]:
    Payload.ran = True
    return {}


def test_pickled_code_is_refused_unrun(file: Path, tmp_path: Path) -> None:
    torch.save(Payload(), tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(f"{file}:Net", weights=tmp_path / "evil.pt")
    assert not Payload.ran
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00")
    for name in ("cut.safetensors", "absent.pt"):
        with pytest.raises(ModelError):
            read_model(f"{file}:Net", weights=tmp_path / name)


def test_exported_programs(tmp_path: Path) -> None:
    path = tmp_path / "relu.pt2"
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(2),)), path)
    program, inputs, name = read_model(str(path))
    assert isinstance(program, torch.export.ExportedProgram)
    assert (inputs, name) == (None, "relu")
    with pytest.raises(ModelError, match="its weights inside"):
        read_model(str(path), weights=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="not an exported program"):
        read_model(str(path))
    with pytest.raises(ModelError, match="there is no file"):
        read_model(str(tmp_path / "absent.pt2"))
