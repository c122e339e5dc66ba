"""`python -m tools.quantized_programs FOLDER`: export the programs again."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

#: PyTorch has this dtype without telling type checkers.
FOUR_BITS = vars(torch)["int4"]
IMAGE, ROWS = (1, 3, 16, 16), (2, 64)


class Net(nn.Module):
    """Plain, depthwise and pointwise convolutions, a residual, a concatenation, pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.point = nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(2)
        self.side = nn.Conv2d(8, 4, 1)
        self.average = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = self.pool(torch.relu(y + self.point(self.depth(y))))
        y = torch.cat([y, self.side(y)], 1)
        return self.head(self.average(y).flatten(1))


class Rows(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 32, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():  # statistics that are not those of a new layer
        for _ in range(8):
            net(torch.randn(8, *IMAGE[1:]))
    return net.eval()


def _export(model: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    torch.manual_seed(1)
    with torch.no_grad():
        return torch.export.export(model, (torch.randn(shape),))


def _converted(quantizer: Any, model: nn.Module, shape: tuple[int, ...]) -> Any:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(_export(model, shape).module(), quantizer)
    torch.manual_seed(2)
    for _ in range(16):
        prepared(torch.randn(shape))
    return _export(convert_pt2e(prepared), shape)


def pt2e_x86() -> Any:
    """uint8 activations before convolutions and linear layers, weights with a scale a channel."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    return _converted(quantizer, _net(), IMAGE)


def pt2e_reduced() -> Any:
    """As before, with activations of 7 bits."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=True))
    return _converted(quantizer, _net(), IMAGE)


def pt2e_rows() -> Any:
    """Linear layers whose activations are quantized at run time, one scale a tensor."""
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_dynamic=True))
    torch.manual_seed(0)
    return _converted(quantizer, Rows().eval(), ROWS)


def pt2e_all() -> Any:
    """int8 activations around every operator, as backends for phones quantize."""
    return _converted(_everything(per_channel=True, symmetric=True), _net(), IMAGE)


def pt2e_tensor() -> Any:
    """The same with one scale a weight."""
    return _converted(_everything(per_channel=False, symmetric=True), _net(), IMAGE)


def pt2e_asymmetric() -> Any:
    """The same with a zero point in every weight."""
    return _converted(_everything(per_channel=False, symmetric=False), _net(), IMAGE)


def _everything(*, per_channel: bool, symmetric: bool) -> Any:
    """A quantizer that annotates every operator, written for these programs."""
    from torchao.quantization.pt2e import (
        HistogramObserver,
        MinMaxObserver,
        PerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
        SharedQuantizationSpec,
    )

    activation = QuantizationSpec(
        dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=2**-12),
    )  # fmt: skip
    if per_channel:
        weight = QuantizationSpec(
            dtype=torch.int8, quant_min=-127, quant_max=127, ch_axis=0,
            qscheme=torch.per_channel_symmetric,
            observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=2**-12),
        )  # fmt: skip
    else:
        scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
        weight = QuantizationSpec(
            dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=scheme,
            observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12),
        )  # fmt: skip
    heavy, moves = ("conv2d", "linear"), ("max_pool2d", "flatten", "relu", "hardtanh")

    def kind(node: Any) -> str:
        return str(node.target).split(".")[1] if node.op == "call_function" else ""

    class Everything(Quantizer):
        def annotate(self, model: Any) -> Any:
            for node in model.graph.nodes:
                name = kind(node)
                inputs = dict.fromkeys(node.all_input_nodes[:1], activation)
                output: Any = activation
                if name in heavy:
                    inputs[node.args[1]] = weight
                elif name in ("add", "cat"):
                    inputs = dict.fromkeys(node.all_input_nodes, activation)
                elif name in moves and kind(node.args[0]) not in (*heavy, "add"):
                    output = SharedQuantizationSpec((node.args[0], node))
                elif name in ("relu", "hardtanh"):
                    inputs = {}
                elif name != "adaptive_avg_pool2d":
                    continue
                users = [kind(u) for u in node.users]
                if name in (*heavy, "add") and users in (["relu"], ["hardtanh"]):
                    output = None  # rounded behind the activation
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=inputs, output_qspec=output, _annotated=True
                )
            return model

        def validate(self, model: Any) -> None:
            del model

    return Everything()


def _torchao(config: Any) -> Any:
    from torchao.quantization import quantize_
    from torchao.utils import unwrap_tensor_subclass

    torch.manual_seed(0)
    model = Rows().eval()
    quantize_(model, config)
    return _export(unwrap_tensor_subclass(model), ROWS)


def torchao_int8_weights() -> Any:
    """``Int8WeightOnlyConfig``."""
    from torchao.quantization import Int8WeightOnlyConfig

    return _torchao(Int8WeightOnlyConfig())


def torchao_int8_dynamic() -> Any:
    """``Int8DynamicActivationInt8WeightConfig``."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return _torchao(Int8DynamicActivationInt8WeightConfig())


def torchao_int4_weights() -> Any:
    """``IntxWeightOnlyConfig`` with four bits in groups of 32: symmetric."""
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    return _torchao(IntxWeightOnlyConfig(weight_dtype=FOUR_BITS, granularity=PerGroup(32)))


def torchao_int4_dynamic() -> Any:
    """``Int8DynamicActivationIntxWeightConfig`` with four bits in groups of 32."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.granularity import PerGroup

    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=FOUR_BITS, weight_granularity=PerGroup(32)
    )
    return _torchao(config)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "pt2e-x86": pt2e_x86,
    "pt2e-reduced": pt2e_reduced,
    "pt2e-rows": pt2e_rows,
    "pt2e-all": pt2e_all,
    "pt2e-tensor": pt2e_tensor,
    "pt2e-asymmetric": pt2e_asymmetric,
    "torchao-int8-weights": torchao_int8_weights,
    "torchao-int8-dynamic": torchao_int8_dynamic,
    "torchao-int4-weights": torchao_int4_weights,
    "torchao-int4-dynamic": torchao_int4_dynamic,
}


def _strip(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Without the paths of the machine that it was made on."""
    for node in program.graph.nodes:
        for name in ("stack_trace", "from_node", "source_fn_stack", "torch_fn"):
            node.meta.pop(name, None)
    return program


def main() -> None:
    """Write the programs, and what they give for their example inputs is left to PyTorch."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or PROGRAMS:
        path = folder / f"{name}.pt2"
        torch.export.save(_strip(PROGRAMS[name]()), path)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
