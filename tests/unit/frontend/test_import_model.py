"""What `import_model` promises: interface, names, dynamic sizes, and errors that say where."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from compiler.errors import InputError, ModelError, UnsupportedOperatorError
from compiler.frontend import import_model
from compiler.stages import Imported, StageLog


def imported(model: Any, inputs: Any = None, **options: Any) -> Imported:
    if isinstance(model, nn.Module):
        model.eval()
    return import_model(model, inputs, log=StageLog(), **options)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


X = torch.zeros(1, 3, 8, 8)


@pytest.mark.compile
def test_parameters_and_buffers_are_inputs_of_main_by_name_in_order(check: Any) -> None:
    result = check(Small(), torch.randn(1, 3, 8, 8))
    assert list(result.parameters) == [
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
        "norm.running_mean",
        "norm.running_var",
    ]
    main = result.module["main"]
    assert [p.name for p in main.params] == ["x", *result.parameters]
    assert result.name == "Function" or result.name == "Small"
    assert [str(s) for s in result.inputs] == ["x: float32[1, 3, 8, 8]"]
    assert [str(s) for s in result.outputs] == ["output: float32[1, 2]"]


def test_bindings_carry_the_module_they_came_from() -> None:
    from compiler.frontend.provenance import module_of

    main = imported(Small().eval(), (X,)).module["main"]
    bindings = [b for block in main.body.blocks for b in block.bindings]
    modules = [module_of(b.var.name) for b in bindings]
    assert {"conv", "norm", "head", ""} <= set(modules)
    assert module_of("lv17") is None


def test_the_model_is_left_as_it_was() -> None:
    model = Small().train()
    model.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    log = StageLog()
    with pytest.warns(UserWarning, match="training mode"):
        result = import_model(model, (X,), log=log)
    assert model.training
    assert model.conv.training
    assert not model.norm.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert any("training mode" in record.detail for record in log.records)
    result.parameters["head.bias"][:] = 9
    assert torch.equal(before["head.bias"], model.head.bias)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imported(model.eval(), (X,))


def test_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, i: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(i))

    assert len(imported(Tied().eval(), (torch.zeros(1, 2, dtype=torch.int64),)).parameters) == 1


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.compile
def test_nested_inputs_and_outputs_are_flattened_with_clear_names(check: Any) -> None:
    class Nested(nn.Module):
        def forward(self, data: dict[str, torch.Tensor], pair: tuple[torch.Tensor, ...]) -> Any:
            both = data["image"] + pair[0]
            return {"sum": both, "more": (both * 2, None), "pair": Pair(both, pair[1] - 1)}

    x, y = torch.ones(2, 3), torch.full((2, 3), 4.0)
    result = imported(Nested(), ({"image": x}, (x, y)))
    assert [s.name for s in result.inputs] == ["data_image", "pair_0", "pair_1"]
    assert [s.name for s in result.outputs] == ["sum", "more_0", "pair_left", "pair_right"]


def test_inputs_by_name_may_come_in_any_order() -> None:
    class Two(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first - second.sum()

    result = imported(Two(), {"second": torch.zeros(5), "first": torch.zeros(3)})
    shapes = {s.name: s.shape for s in result.inputs}
    assert shapes == {"first": (3,), "second": (5,)}


@pytest.mark.compile
def test_a_dynamic_batch_runs_at_another_size(check: Any) -> None:
    result = check(Small(), X, dynamic_batch=True, run_with=(torch.randn(5, 3, 8, 8),))
    assert result.inputs[0].shape == ("batch", 3, 8, 8)
    assert result.outputs[0].shape == ("batch", 2)


@pytest.mark.compile
def test_named_dynamic_sizes_and_formulas_of_them(check: Any) -> None:
    length = torch.export.Dim("length", min=2, max=64)

    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            flat = x.reshape(-1)
            return flat * 2, torch.cat([x, x]), x.softmax(0)

    result = check(
        Rows(),
        torch.randn(4, 3),
        dynamic_shapes=({0: length},),
        run_with=(torch.randn(7, 3),),
    )
    assert result.inputs[0].shape == ("length", 3)
    assert [s.shape for s in result.outputs] == [("3*length",), ("2*length", 3), ("length", 3)]


@pytest.mark.compile
def test_a_dynamic_length_of_text(check: Any) -> None:
    from tools.zoo.nets.transformers import MiniLM
    from tools.zoo.nets.weights import randomize, tokens

    def text(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[:, -2:] = 0
        return tokens(batch, length, vocabulary=50), mask

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=4, max=64)
    model = randomize(MiniLM(50, width=24, depth=1, heads=4, hidden=32, positions=64))
    varying = {0: batch, 1: length}
    result = check(model, *text(2, 8), dynamic_shapes=(varying, varying), run_with=text(3, 13))
    assert result.inputs[0].shape == ("batch", "length")
    assert result.outputs[0].shape == ("batch", 24)


def test_a_dynamic_size_that_no_input_shows_plainly_is_refused() -> None:
    rows = 4 * torch.export.Dim("rows", min=1, max=8)
    with pytest.raises(ModelError, match="stands only in formulas"):
        imported(Small(), (X,), dynamic_shapes=({2: rows},))


def test_exported_programs_and_files(tmp_path: Path) -> None:
    program = torch.export.export(Small().eval(), (X,))
    path = tmp_path / "small.pt2"
    torch.export.save(program, path)
    result = imported(path)
    assert result.name == "small"
    assert list(result.parameters) == list(imported(program, (X,)).parameters)
    with pytest.raises(InputError, match=r"float32\[1, 3, 4, 4\] was given"):
        imported(program, (torch.zeros(1, 3, 4, 4),))
    with pytest.raises(InputError, match="2 example inputs were given, the program takes 1: x"):
        imported(program, (X, X))
    with pytest.raises(InputError, match="fixed when it is exported"):
        imported(program, (X,), dynamic_batch=True)
    training = torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.Dropout()), (X[0, 0, :3, :3],))
    with pytest.raises(ModelError, match=r"1: the program was exported in training mode|training"):
        imported(training)


class Strange(nn.Module):
    """Several operators that nothing supports, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([Inner(), Inner()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.inner:
            x = layer(x)
        return torch.special.i1(x)


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.linalg.inv(x @ x.t())  # the marked line
        return x + y.sum() + torch.fft.rfft(x).real.sum()


def test_all_unsupported_operators_are_named_at_once_with_their_places() -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        imported(Strange(), (torch.eye(3),))
    text = str(caught.value)
    assert "linalg_inv" in text
    assert "special_i1" in text
    assert "fft_r2c" in text
    assert "(2 times)" in text
    assert "inner.0, test_import_model.py:" in text
    assert "# the marked line" in text or "torch.linalg.inv(x @ x.t())" in text
    assert caught.value.exit_code == 4


def test_a_result_that_no_converter_computes_is_refused() -> None:
    class Places(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return nn.functional.max_pool2d(x, 2, return_indices=True)

    with pytest.raises(
        UnsupportedOperatorError, match=r"result 1 of aten\.max_pool2d_with_indices"
    ):
        imported(Places(), (X,))


def test_a_mistranslation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.frontend.converters import CONVERTERS

    def wrong(node: Any, importer: Any) -> Any:
        return importer.env[node.args[0]]  # forgets to reduce

    monkeypatch.setitem(CONVERTERS, "mean.dim", wrong)
    with pytest.raises(UnsupportedOperatorError, match=r"mean.dim.*translated with shape"):
        imported(Small().eval(), (X,))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x)


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_a_model_that_does_not_export_says_why_and_where() -> None:
    with pytest.raises(ModelError, match="does not export") as caught:
        imported(Branch(), (X,))
    text = str(caught.value)
    assert "module 'gate', test_import_model.py:" in text
    assert "torch.where" in text
    assert len(text) < 1200


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (X, "must be a tuple of inputs, not Tensor"),
        (None, "must be a tuple"),
        ("x", "must be a tuple of inputs, not str"),
        ((), "hold no torch.Tensor"),
        ((X, X), "do not fit Small.forward"),
        ({"y": X}, "do not fit Small.forward"),
        ((torch.zeros(1, 5, 8, 8),), "does not run on the example inputs"),
        ((X.to(torch.int64),), "does not run on the example inputs"),
        ((X.to("meta"),), "an example input is on device meta"),
    ],
)
def test_wrong_example_inputs(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        imported(Small().eval(), inputs)


def test_a_model_that_fails_on_its_inputs_names_the_module() -> None:
    with pytest.raises(InputError, match=r"module 'conv', test_import_model.py:\d+|module 'conv'"):
        imported(Small().eval(), (torch.zeros(1, 5, 8, 8),))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(value: float) -> None:
    model = Small().eval()
    with torch.no_grad():
        model.head.weight[0, 1] = value
    with pytest.raises(ModelError, match=r"head.weight \(1 of 8 values\)"):
        imported(model, (X,))
    with pytest.raises(ModelError, match=r"head.weight \(1 of 8 values\)"):
        imported(torch.export.export(model, (X,)))


def test_masks_may_hold_infinities_but_statistics_no_nan() -> None:
    class Masked(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("mask", torch.full((3,), value))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + self.mask).softmax(-1)

    assert imported(Masked(float("-inf")), (torch.zeros(3),)).parameters["mask"].shape == (3,)
    with pytest.raises(ModelError, match=r"mask \(3 of 3"):
        imported(Masked(float("nan")), (torch.zeros(3),))


def test_empty_models() -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            x + 1

    with pytest.raises(ModelError, match="no tensor outputs"):
        imported(Silent(), (X,))
    with pytest.raises(ModelError, match="it has no operators"):
        imported(nn.Identity(), (X,))


def test_models_on_another_device() -> None:
    with pytest.raises(ModelError, match=r"'conv\.weight' is on device meta"):
        imported(Small().to("meta"), (X,))


def test_models_that_keep_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return x + self.count

    with pytest.raises(ModelError, match="changes its own buffers when it runs: count"):
        imported(Counter(), (X,))


def test_things_that_are_no_models() -> None:
    with pytest.raises(ModelError, match="cannot import a function"):
        imported(lambda x: x, (X,))
    with pytest.raises(InputError, match="dynamic_batch and dynamic_shapes"):
        imported(Small(), (X,), dynamic_batch=True, dynamic_shapes=({0: None},))
    with pytest.raises(InputError, match="same size along axis 0"):
        imported(Gate(), {"x": torch.tensor(1.0)}, dynamic_batch=True)


def test_inputs_changed_in_place_are_noted() -> None:
    log = StageLog()
    import_model(nn.Sequential(nn.ReLU(inplace=True)), (X,), log=log)
    assert any("changed in place" in record.detail for record in log.records)
