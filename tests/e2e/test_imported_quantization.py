"""Programs that PT2E or torchao quantized: compiled as they are, with their own numbers.

The files in tests/golden/quantized are written by `python -m tools.quantized_programs`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler import Bundle, compile, load
from compiler.cli.app import run_cli
from compiler.compress.plan import CompressionPlan
from compiler.errors import InputError
from compiler.frontend import import_model
from compiler.frontend.export import load_program
from compiler.lower.plain import reference_outputs
from compiler.quantization import make_plan, settle_request
from compiler.stages import Imported, StageLog
from targets import get_target
from tests.support import torchao_ops

pytestmark = pytest.mark.compile
FOLDER = Path(__file__).parent.parent / "golden" / "quantized"
STATIC = ("pt2e-x86", "pt2e-reduced", "pt2e-all", "pt2e-tensor", "pt2e-asymmetric")


@cache
def program(name: str) -> torch.export.ExportedProgram:
    torchao_ops.register()
    return load_program(FOLDER / f"{name}.pt2")


@cache
def imported(name: str) -> Imported:
    return import_model(program(name), None, name="net", log=StageLog())


def plan_of(model: Imported) -> CompressionPlan:
    request = settle_request(None, model, "float32")
    assert request is not None
    return make_plan(request, model, get_target("x86"), StageLog())[0]


def precisions(plan: CompressionPlan) -> dict[str, str]:
    return {name: operator.precision for name, operator in plan.operators.items()}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return compile(FOLDER / "pt2e-all.pt2", measure=False)


def test_every_operator_of_a_program_computes_on_integers(bundle: Bundle) -> None:
    assert bundle.plan is not None
    assert set(precisions(bundle.plan).values()) == {"int8"}
    assert bundle.manifest.precision == "int8"
    assert bundle.plan.recipe == {"imported_from": "PT2E"}
    assert bundle.plan.operators["head:matmul"].why == "as PT2E quantized it"
    (stage,) = [s for s in bundle.manifest.stages if s.name == "plan of the program"]
    assert "as PT2E quantized it: 10 of 10 operators" in stage.detail


def test_outputs_are_the_programs_within_a_step(bundle: Bundle) -> None:
    assert bundle.plan is not None
    step = bundle.plan.tensors["head:add"].scale
    run = program("pt2e-all").module()
    same = 0
    for seed in range(12):
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        errors = np.abs(bundle(x.numpy()) - run(x).detach().numpy()) / step
        assert errors.max() < 1.01
        same += int((errors < 0.01).sum())
    assert same > 100  # of 120: most are not even one step off


def test_the_bits_are_those_of_the_reference(bundle: Bundle) -> None:
    assert bundle.plan is not None
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (want,) = reference_outputs(imported("pt2e-all"), get_target("x86"), bundle.plan, [x])
    assert (bundle(x) == want).all()


@pytest.mark.parametrize("name", STATIC)
def test_the_reference_is_close_to_each_program(name: str) -> None:
    model = imported(name)
    plan, run = plan_of(model), program(name).module()
    for seed in range(2):
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        (got,) = reference_outputs(model, get_target("x86"), plan, [x.numpy()])
        want = run(x).detach().numpy()
        assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_layers_alone_can_be_quantized() -> None:
    found = precisions(plan_of(imported("pt2e-x86")))
    assert found["stem.0:conv2d"] == found["head:matmul"] == "int8"
    assert found[":add"] == found[":concat"] == "float32"
    assert found["pool:max_pool2d"] == "int8"  # a range passes through what only moves elements


def test_stored_weights_are_kept_to_the_last_one() -> None:
    model = imported("pt2e-x86")
    plan = plan_of(model)
    stored = program("pt2e-x86").state_dict["_frozen_param0"].numpy()
    weight = plan.operators["stem.0:conv2d"].weight
    assert weight is not None
    assert stored.min() == weight.low == -128
    scales = np.asarray(weight.scales).reshape(-1, 1, 1, 1)
    assert (np.rint(model.parameters["stem.0.weight"] / scales) == stored).all()


def test_fewer_values_than_the_dtype_has_are_clipped() -> None:
    plan = plan_of(imported("pt2e-reduced"))
    clips = [n for n, o in plan.operators.items() if n.endswith(("clip", "clamp"))]
    assert clips


def test_asymmetric_weights_stay_float32_and_say_so() -> None:
    plan = plan_of(imported("pt2e-asymmetric"))
    layers = [o for n, o in plan.operators.items() if o.kind == "nn.conv2d"]
    assert all(o.precision == "float32" and "asymmetric" in o.why for o in layers)


@pytest.mark.parametrize(
    ("name", "precision", "dtype", "granularity"),
    [
        ("pt2e-rows", "dynamic", "int8", "channel"),
        ("torchao-int8-dynamic", "dynamic", "int8", "channel"),
        ("torchao-int8-weights", "weight", "int8", "channel"),
        ("torchao-int4-weights", "weight", "int4", "group"),
        ("torchao-int4-dynamic", "weight", "int4", "group"),
    ],
)
def test_precisions_of_linear_layers(
    name: str, precision: str, dtype: str, granularity: str
) -> None:
    plan = plan_of(imported(name))
    layers = [o for o in plan.operators.values() if o.weight is not None]
    assert [o.precision for o in layers] == [precision, precision]
    for layer in layers:
        assert layer.weight is not None
        assert (layer.weight.dtype, layer.weight.granularity) == (dtype, granularity)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("pt2e-rows", 0.02),
        ("torchao-int8-dynamic", 0.02),
        ("torchao-int8-weights", 0.005),
        # -8 is not among the codes of groups here: it becomes -7.
        ("torchao-int4-weights", 0.06),
        ("torchao-int4-dynamic", 0.06),
    ],
)
def test_linear_layers_are_close_to_the_programs(name: str, tolerance: float) -> None:
    model, run = imported(name), program(name).module()
    plan = plan_of(model)
    for seed in range(2):
        x = torch.randn(2, 64, generator=torch.Generator().manual_seed(seed))
        (got,) = reference_outputs(model, get_target("x86"), plan, [x.numpy()])
        want = run(x).detach().numpy()
        assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def test_a_saved_bundle_has_the_plan(bundle: Bundle, tmp_path: Path) -> None:
    again = load(bundle.save(tmp_path / "net.tw"))
    assert again.plan == bundle.plan
    other = compile(program("pt2e-all"), quantize=again.plan, measure=False, name="net")
    assert other.manifest.golden_sha256 == bundle.manifest.golden_sha256


@pytest.mark.slow
def test_a_metric_judges_it() -> None:
    def metric(run: Any) -> float:
        return float(np.abs(np.asarray(run(np.ones((1, 3, 16, 16), np.float32)))).max())

    found = compile(FOLDER / "pt2e-all.pt2", evaluate=metric).report
    assert found is not None
    assert found.quantization is not None  # type: ignore[union-attr]
    assert found.quantization.metric_before is not None  # type: ignore[union-attr]


def test_a_metric_without_quantization_is_refused() -> None:
    net = torch.nn.Linear(4, 4).eval()
    with pytest.raises(InputError, match="nothing is to be quantized"):
        compile(net, example_inputs=(torch.ones(1, 4),), evaluate=lambda run: 1.0, measure=False)


def test_the_command_line_compiles_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    code = run_cli(
        ["compile", str(FOLDER / "pt2e-rows.pt2"), "-o", str(tmp_path / "net.tw"), "--no-measure",
         "--save-plan", str(plan)]
    )  # fmt: skip
    capsys.readouterr()
    assert code == 0
    assert CompressionPlan.load(plan).recipe == {"imported_from": "PT2E"}
