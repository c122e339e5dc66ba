"""PrepareWeights: what `main` made of parameters alone becomes a parameter of its own."""

from __future__ import annotations

import torch
from torch import nn

from compiler.frontend import import_model
from compiler.lower import lower
from compiler.lower.prepare_weights import prepare_weights
from compiler.stages import StageLog
from schedules.cpu.annotations import PREPARES
from schedules.tvm_adapter import relax, te
from targets import get_target


class Twice(nn.Module):
    """One convolution, with and without an activation behind it, and another of its size."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.shared, self.other = (
            nn.Conv2d(32, 32, size, padding=size // 2, bias=False) for _ in range(2)
        )

    def forward(self, x):
        return self.other(self.shared(self.shared(x).relu()))


def lowered(net):
    log = StageLog()
    imported = import_model(net.eval(), (torch.randn(1, 32, 14, 14),), log=log)
    return lower(imported, get_target("arm/cortex-a72"), log), log


def test_weights_stay_compact_and_one_function_packs_all_of_a_shape():
    result, log = lowered(Twice())
    shapes = {name: array.shape for name, array in result.parameters.items()}
    assert set(shapes) == {"shared.weight.packed", "other.weight.packed"}
    assert {p.parameter for p in result.prepared} == set(shapes)
    (function,) = {p.function for p in result.prepared}
    assert function in {str(v.name_hint) for v in result.module.get_global_vars()}
    assert function not in {k.name for k in result.kernels}
    for item in result.prepared:
        panels, inner, height, width, columns = shapes[item.parameter]
        assert (height, width, panels * columns, inner) == (3, 3, 32, 32)
        assert (item.shape, item.dtype) == ((panels, 6, 6, inner, columns), "float32")
    convolutions = [k for k in result.kernels if k.kind == "conv2d"]
    assert {source for k in convolutions for source in k.sources} == {"shared", "other"}
    # What kernels read is the packed weight.
    assert all(k.bytes_read >= 4 * 32 * 32 * 36 for k in convolutions)
    (record,) = [r for r in log.records if r.name == "PrepareWeights"]
    assert record.detail == ("2 weights are packed when the model is loaded: 0.1 MB become 0.3 MB")


def test_other_weights_are_packed_when_compiled():
    result, log = lowered(Twice(1))
    assert result.prepared == ()
    assert not [r.detail for r in log.records if r.name == "PrepareWeights" and r.detail]


def test_two_calls_for_one_parameter_leave_one_parameter():
    bb = relax.BlockBuilder()
    x, w = (relax.Var(name, relax.TensorType((4,), "float32")) for name in "xw")
    twice = te.placeholder((4,), "float32", name="compact")
    function = te.create_prim_func([twice, te.compute((4,), lambda i: twice[i] * 2)])
    pack = bb.add_func(function.with_attr(PREPARES, True), "pack")
    with bb.function("main", [x, w]):
        parts = [x]
        for _ in range(2):  # a variable of one block is not seen from another
            with bb.dataflow():
                packed = bb.emit(relax.call_tir(pack, [w], relax.TensorType((4,), "float32")))
                parts.append(bb.emit_output(relax.op.add(parts[-1], packed)))
        bb.emit_func_output(parts[-1])
    module, prepared = prepare_weights(bb.get(), ("w",))
    assert [(p.parameter, p.function, p.shape, p.dtype) for p in prepared] == [
        ("w", "pack", (4,), "float32")
    ]
    relax.analysis.well_formed(module)  # raises if it is not
    main = module["main"]
    calls = [b.value for block in main.body.blocks for b in block.bindings]
    assert [str(c.op.name) for c in calls] == ["relax.add", "relax.add"]
    assert all(c.args[1].same_as(main.params[1]) for c in calls)
