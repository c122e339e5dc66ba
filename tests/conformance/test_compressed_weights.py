"""Kernels on compressed weights on every x86 level: integers bit for bit, floats closely."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compiler.build import build
from compiler.compress import dynamic, reference
from compiler.compress.operators import call
from compiler.compress.weight_codes import decode
from compiler.lower import lower
from compiler.lower.choose_kernels import kernel_function
from compiler.lower.parameters import ParameterTable
from compiler.runtime import Executor
from compiler.stages import Imported, StageLog, TensorSpec
from schedules.cpu import templates
from schedules.cpu.compute.canonical import canonical, placeholders
from schedules.cpu.default import schedule_function
from schedules.space import Choice
from schedules.tvm_adapter import IRModule, relax, te, tvm
from schedules.tvm_adapter import target as tvm_target
from schedules.weights import encoding_of, weight_operands
from schedules.workload import Workload
from targets import TargetSpec, get_target, missing_features

pytestmark = pytest.mark.compile

Array = np.ndarray[Any, Any]
TARGETS = ("x86", "x86/cascadelake", "x86/generic-avx2")
ONE = ("x86", *(pytest.param(target, marks=pytest.mark.slow) for target in TARGETS[1:]))
#: Without Cascade Lake, whose integer kernels every machine with AVX-512 takes, too.
FEWER = ("x86", pytest.param(TARGETS[1], marks=pytest.mark.slow), TARGETS[2])
FLOATS = ("float32", "int8", "float32")
INDICES = ("float32", "uint8", "float32")
U8, S8 = ("uint8", "int8", "int32"), ("int8", "int8", "int32")


def dense(m: int, k: int, n: int, dtypes: Any, encoding: str = "", books: int = 0) -> Workload:
    attributes = {"codebooks": books} if books else {}
    return Workload("dense", (m, k), (k, n), (m, n), dtypes, "row-major", attributes, (), encoding)


def conv(
    inner: int, outer: int, kernel: int, dtypes: Any, encoding: str = "", *, groups: int = 1,
    books: int = 0, size: int = 6,
) -> Workload:  # fmt: skip
    padding = kernel // 2
    attributes = {
        "strides": (1, 1), "padding": (padding,) * 4, "dilation": (1, 1), "groups": groups,
        **({"codebooks": books} if books else {}),
    }  # fmt: skip
    return Workload(
        "conv2d", (1, size, size, inner), (outer, inner // groups, kernel, kernel),
        (1, size, size, outer), dtypes, "NHWC", attributes, (), encoding,
    )  # fmt: skip


INTEGERS = (
    dense(5, 70, 50, U8, "int4"),
    dense(3, 64, 33, S8, "int4"),
    dense(1, 24, 16, U8, "ternary"),
    dense(4, 40, 16, U8, "binary"),
    conv(12, 20, 3, U8, "int4"),
    conv(16, 32, 1, U8, "int4", groups=2),
    conv(16, 16, 3, U8, "ternary"),
)
REALS = (
    dense(5, 63, 50, FLOATS, "int4"),
    dense(5, 64, 50, FLOATS, "int4/16"),
    dense(1, 48, 20, FLOATS, "int8/12"),
    dense(2, 30, 20, FLOATS),
    dense(2, 30, 20, ("float32", "float16", "float32")),
    dense(3, 64, 32, FLOATS, "ternary/32"),
    dense(3, 33, 40, INDICES, "codebook", books=1),
    dense(3, 32, 64, INDICES, "codebook", books=2),
    dense(3, 32, 40, INDICES, "codebook", books=4),  # blocks narrower than a vector
    conv(16, 24, 3, FLOATS, "int4/8"),
    conv(16, 32, 3, INDICES, "codebook", books=2),
    conv(16, 32, 1, FLOATS, "int4", groups=2),
)


def runnable(name: str) -> TargetSpec:
    spec = get_target(name)
    missing = missing_features(spec)
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(missing)}")
    return spec


def draw(workload: Workload, seed: int = 0) -> list[Array]:
    """Data and plain operands of the weight."""
    generator = np.random.default_rng(seed)
    dtype = workload.dtypes[0]
    if dtype == "float32":
        data = generator.standard_normal(workload.data).astype(dtype)
    else:
        info = np.iinfo(dtype)
        data = generator.integers(info.min, info.max + 1, workload.data).astype(dtype)
    found = [data]
    encoding = encoding_of(workload)
    for place, (shape, kind) in enumerate(weight_operands(workload)):
        if place:
            found.append((generator.random(shape) + 0.25).astype(kind))
        elif encoding.packing is not None:
            p = encoding.packing
            fields = generator.integers(0, p.mask + 1, shape)
            found.append((fields * p.step - p.offset).astype(kind))
        elif kind == "int8":
            found.append(generator.integers(-127, 128, shape).astype(kind))
        else:
            found.append(generator.standard_normal(shape).astype(kind))
    return found


def expected(workload: Workload, arrays: list[Array]) -> Array:
    """By the references in NumPy, which share nothing with tensor expressions."""
    data, codes, *factors = arrays
    product = workload.operator == "dense"
    if workload.dtypes[2] == "int32":
        weight = codes
    elif factors or codes.dtype == np.float16:
        weight = decode(codes, *factors, axis=1 if product else 0)
    else:
        weight = codes.astype(np.float32)
    if product:
        if workload.dtypes[2] == "int32":
            return reference.matmul(data, weight)
        return data.astype(np.float64) @ weight.astype(np.float64)
    a = workload.attributes
    result = reference.convolve(
        data.transpose(0, 3, 1, 2), weight, padding=a["padding"], groups=a["groups"]
    ).transpose(0, 2, 3, 1)
    return result.astype(np.int32) if workload.dtypes[2] == "int32" else result


def run(cases: list[tuple[Workload, Choice, list[Array]]], spec: TargetSpec) -> list[Array]:
    """What the kernels of these choices give, all built into one module."""
    functions = {}
    target = tvm_target.Target(spec.tvm_dict())
    with target:
        for i, (workload, choice, _) in enumerate(cases):
            function, decision = schedule_function(
                kernel_function(workload, choice, spec), f"kernel{i}", spec
            )
            assert not decision.fallback, f"{workload}: {decision.remark}"
            functions[f"kernel{i}"] = function
        library = tvm.compile(IRModule(functions), target=target)
    results = []
    for i, (workload, choice, arrays) in enumerate(cases):
        packed = templates.pack(workload, choice, spec, *arrays[1:])
        types = templates.packed(workload, choice, spec)
        assert [(p.shape, str(p.dtype)) for p in packed] == [(s, d) for s, d in types]
        out = tvm.runtime.tensor(np.full([int(v) for v in workload.output], 7, workload.dtypes[2]))
        library[f"kernel{i}"](*(tvm.runtime.tensor(a) for a in (arrays[0], *packed)), out)
        results.append(out.numpy())
    return results


def check(cases: list[tuple[Workload, Choice, list[Array]]], spec: TargetSpec) -> None:
    for (workload, choice, arrays), got in zip(cases, run(cases, spec), strict=True):
        want = expected(workload, arrays)
        if workload.dtypes[2] == "int32":
            np.testing.assert_array_equal(got, want, f"{workload} {choice}")
        else:
            np.testing.assert_allclose(
                got, want, atol=1e-5 * np.abs(want).max(), rtol=0, err_msg=f"{workload} {choice}"
            )


@pytest.mark.parametrize("target", FEWER)
def test_defaults(target):
    spec = runnable(target)
    check([(w, templates.default_choice(w, spec), draw(w)) for w in (*INTEGERS, *REALS)], spec)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_random_choices(target):
    spec, source = runnable(target), random.Random(0)
    cases = []
    for workload in (*INTEGERS, *REALS) * 3:
        space = source.choice(templates.spaces(workload, spec))
        choice = {d.name: source.choice(d.options) for d in space.decisions}
        choice["algorithm"] = space.algorithm
        if np.isfinite(templates.estimated_cycles(workload, choice, spec)):
            cases.append((workload, choice, draw(workload, len(cases))))
    assert len(cases) > len(INTEGERS)
    check(cases, spec)


def test_canonical_definitions_mean_the_same():
    """What every candidate of a search is compared with."""
    for workload in (INTEGERS[0], REALS[1], REALS[7], REALS[9]):
        arrays = draw(workload)
        tensors = placeholders(workload)
        function = te.create_prim_func([*tensors, canonical(workload, *tensors)])
        library = tvm.compile(IRModule({"main": function}), target="llvm")
        out = tvm.runtime.tensor(np.zeros([int(v) for v in workload.output], workload.dtypes[2]))
        library["main"](*map(tvm.runtime.tensor, arrays), out)
        want = expected(workload, arrays)
        np.testing.assert_allclose(out.numpy(), want, atol=1e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("encoding", ["int4", "ternary", "binary", "codebook"])
def test_weights_take_as_many_bytes_as_they_have_bits(encoding):
    spec = get_target("x86/cascadelake")
    dtypes = INDICES if encoding == "codebook" else U8
    workload = dense(8, 64, 64, dtypes, encoding, books=int(encoding == "codebook"))
    bits = {"int4": 4, "ternary": 2, "binary": 1, "codebook": 4}[encoding]
    arrays = draw(workload)
    packed = templates.pack(workload, templates.default_choice(workload, spec), spec, *arrays[1:])
    assert packed[0].nbytes * 8 == 64 * 64 * bits


def test_only_templates_that_decode_serve_encoded_weights():
    spec = get_target("x86/sapphirerapids")
    plain = dense(64, 64, 64, U8)
    assert any(s.algorithm == "amx" for s in templates.spaces(plain, spec))
    coded = templates.spaces(replace(plain, weight_encoding="int4"), spec)
    assert {s.algorithm for s in coded} == {"direct"}


# Rows and tables, through the whole pipeline


def compiled(emit: Any, inputs: list[tuple[tuple[int, ...], str]], spec: TargetSpec, tmp_path: Any):
    table = ParameterTable()
    variables = [
        relax.Var(f"x{i}", relax.TensorType(list(shape), dtype))
        for i, (shape, dtype) in enumerate(inputs)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            results = [builder.emit_output(v) for v in emit(builder, table, variables)]
        builder.emit_func_output(results)
    specs = tuple(TensorSpec(f"x{i}", shape, dtype) for i, (shape, dtype) in enumerate(inputs))
    outputs = tuple(
        TensorSpec(f"y{i}", tuple(int(v) for v in r.ty.shape.values), str(r.ty.dtype.dtype))
        for i, r in enumerate(results)
    )
    imported = Imported(builder.get(), specs, outputs, {}, "rows")
    lowered = lower(imported, spec, StageLog())
    built = build(lowered, spec, StageLog(), tmp_path)
    assert not [k.name for k in built.kernels if k.fallback]
    return Executor(built.library, built.inputs, built.outputs, built.parameters, built.prepared)


@pytest.mark.parametrize("target", ONE)
def test_rows_have_the_same_integers_everywhere(target, tmp_path):
    spec = runnable(target)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((6, 75)).astype(np.float32)
    x *= np.array([[1], [1e-20], [1e30], [0], [1e-38], [3]], np.float32)
    x[0, :3] = [np.float32(0.5) / 127, -1e-45, 0.0]

    def emit(bb: Any, _table: Any, variables: list[Any]) -> list[Any]:
        scales = bb.emit(call("row_scales", variables[0]))
        return [scales, call("quantize_rows", variables[0], scales)]

    scales, stored = compiled(emit, [(x.shape, "float32")], spec, tmp_path).run(x)
    np.testing.assert_array_equal(scales, dynamic.row_scales(x))
    np.testing.assert_array_equal(stored, dynamic.quantize_rows(x, scales))


@pytest.mark.parametrize("target", ONE)
def test_looked_up_rows_are_what_their_codes_mean(target, tmp_path):
    spec = runnable(target)
    generator = np.random.default_rng(0)
    indices = generator.integers(0, 24, (2, 5))
    half = generator.random
    tables = [
        (generator.integers(-7, 8, (24, 40)).astype(np.int8), half((24, 5)), "float16", "int4"),
        (generator.integers(-7, 8, (24, 41)).astype(np.int8), half((24, 1)), "float32", "int4"),
        (generator.integers(-127, 128, (24, 40)).astype(np.int8), half((24, 1)), "float32", ""),
        (generator.integers(0, 16, (24, 40)).astype(np.uint8), half((3, 16)), "float32", ""),
        (half((24, 40)).astype(np.float16), None, "", ""),
    ]
    scales = half(24).astype(np.float32)

    def emit(bb: Any, table: Any, variables: list[Any]) -> list[Any]:
        results = []
        for codes, factors, dtype, encoding in tables:
            operands = [table.constant(codes, "t", encoding)]
            if factors is not None:
                operands.append(table.constant(factors.astype(dtype), "t.factors"))
            if codes.dtype == np.uint8:
                operands.append(table.constant(scales, "t.scale"))
            decoded = bb.emit(call("decode", *operands, axis=0))
            results.append(relax.op.take(decoded, variables[0], 0))
        results.append(relax.op.take(decoded, variables[1], 0))
        return results

    inputs = [(indices.shape, "int64"), ((), "int64")]
    outputs = compiled(emit, inputs, spec, tmp_path).run(indices, np.asarray(5))
    *outputs, row = outputs
    np.testing.assert_array_equal(row, decode(tables[-1][0], axis=0)[5])
    for got, (codes, factors, dtype, _) in zip(outputs, tables, strict=True):
        parts = () if factors is None else (factors.astype(dtype),)
        parts += (scales,) if codes.dtype == np.uint8 else ()
        np.testing.assert_array_equal(got, decode(codes, *parts, axis=0)[indices])
