"""Tuning of VTA's layers: simulated cycles, refused tilings, records and what is built of them."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from compiler.tune.measure.base import Failed, Measured, Rejected
from compiler.tune.options import Tune
from compiler.tune.vta import LayerKernels, SimulatorMeasurer, extract_layers, tune_layers
from schedules.records import RecordStore
from schedules.records.selector import record_selector
from schedules.selection import defaults_only
from schedules.vta import templates
from schedules.vta.layers import Addend, Conv2d, MaxPool2d, Region, Step, Sum, Tensor
from schedules.vta.program import Built, build_program
from schedules.vta.tiling import Layout, Tiling
from schedules.vta.work import normalize
from targets import get_target
from targets.vta import vta_config

SPEC = get_target("vta/pynq")
CONFIG = vta_config(SPEC)
NEVER = threading.Event()


def region() -> Region:
    numbers = np.random.default_rng(0)

    def conv(name: str, data: str, output: str, inputs: int, kernel: int, **more: object) -> Conv2d:
        weight = numbers.integers(-40, 41, (48, inputs, kernel, kernel)).astype(np.int8)
        bias = numbers.integers(-900, 900, 48).astype(np.int32)
        pad = (kernel // 2,) * 4
        return Conv2d(name, data, output, weight, bias, (Step(10, 0),), padding=pad, **more)

    tensors = (
        Tensor("data", 32, 10, 10), Tensor("a", 48, 10, 10), Tensor("b", 48, 10, 10),
        Tensor("c", 48, 10, 10), Tensor("d", 48, 5, 5),
    )  # fmt: skip
    layers = (
        conv("first", "data", "a", 32, 3),
        conv("second", "a", "b", 48, 1),
        Sum("add", "c", (Step(1, 0, adds=(Addend("a"), Addend("b"))),)),
        MaxPool2d("pool", "c", "d", (2, 2), (2, 2)),
    )
    return Region("net", tensors, layers, ("data",), ("d",))


def test_workloads_hold_all_that_tilings_depend_on():
    net = region()
    for layer in net.layers:
        workload = templates.workload_of(layer, net, CONFIG)
        work = normalize(layer, net, CONFIG)
        bare = templates.skeleton(workload, CONFIG)
        (space,) = templates.spaces(workload, SPEC)
        for tiling in (Tiling.of(space.default), Tiling(1, 1, 1, 1), Tiling(5, 5, 1, 1)):
            full, empty = Layout(work, tiling, CONFIG), Layout(bare, tiling, CONFIG)
            assert full.refusal() == empty.refusal()
            assert [list(full.parts(t)) for t in full.tiles()] == [
                list(empty.parts(t)) for t in empty.tiles()
            ]
            if not full.refusal():
                cycles = templates.estimated_cycles(workload, tiling.choice(), SPEC)
                assert math.isfinite(cycles)
        again = type(workload).from_json(workload.to_json())
        assert again.key == workload.key


def test_tilings_over_a_limit_are_never_simulated():
    net = region()
    workload = templates.workload_of(net.layers[0], net, CONFIG)
    small = replace(SPEC, extra={**SPEC.extra, "log_acc_buff_size": 11, "log_inp_buff_size": 11})
    choice = Tiling(10, 10, 3, 2).choice()
    assert math.isfinite(templates.estimated_cycles(workload, choice, SPEC))
    assert math.isinf(templates.estimated_cycles(workload, choice, small))
    assert templates.spaces(workload, replace(SPEC, extra={**SPEC.extra, "log_inp_width": 4})) == ()


def test_measurer_compares_every_candidate(monkeypatch):
    net = region()
    (layer,) = [t for t in extract_layers([net], SPEC) if t.task.name == "first"]
    measurer = SimulatorMeasurer(SPEC, [layer])
    good, bad = Tiling(5, 10, 3, 2).choice(), Tiling(10, 10, 3, 9).choice()
    measured, failed = measurer.measure(layer.task, [good, bad], cancel=NEVER)
    assert isinstance(measured, Measured)
    built = build_program(layer.region, CONFIG, {"first": good})
    inputs, _ = measurer._data(layer.task.workload.key, layer.region)
    _, result = built.run(inputs)
    assert measured.samples_ns == (result.cycles / CONFIG.clock_hz * 1e9,)
    assert isinstance(failed, Failed)
    assert "larger than the input" in failed.reason

    real = Built.run

    def wrong(self, inputs, **more):
        outputs, seen = real(self, inputs, **more)
        outputs["a"][0, 0, 0] ^= 1
        return outputs, seen

    monkeypatch.setattr(Built, "run", wrong)
    (rejected,) = measurer.measure(layer.task, [good], cancel=NEVER)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "1 numbers of its output are wrong"


def test_a_search_keeps_records_that_programs_are_built_from(tmp_path):
    net = region()
    layers = extract_layers([net], SPEC)
    assert layers[0].task.name == "first"
    store = RecordStore(tmp_path)
    result = tune_layers(layers, SPEC, Tune(trials=12, batch=4), store)
    assert (result.rejected, result.failed) == (0, 0)
    assert result.end_to_end_us <= result.default_end_to_end_us
    select = record_selector([store], spaces=templates.spaces)
    choices, selections = templates.choose(net, SPEC, select)
    assert set(choices) == {"first", "second", "add", "pool"}
    assert {s.tier for s in selections.values()} == {"same features"}
    for identifier in result.records:
        record = store.get(identifier)
        assert record.measurement.label == "simulated"
        assert record.check.max_relative_error == 0
        assert record.provenance.runner == "vta-simulator"
    built = build_program(net, CONFIG, choices)
    assert [layer.choice for layer in built.layers] == [choices[v.name] for v in net.layers]
    data = np.random.default_rng(1).integers(-128, 128, (32, 10, 10)).astype(np.int8)
    _, seen = built.run({"data": data})
    seen.check()
    # Another VTA has other memories, and records of its own; a sibling with another clock not.
    other = replace(SPEC, extra={**SPEC.extra, "log_wgt_buff_size": 17})
    assert templates.choose(net, other, select)[0] == {}
    assert set(templates.choose(net, get_target("vta/ultra96"), select)[0]) == set(choices)
    assert templates.choose(net, SPEC, defaults_only)[0] == {}


def test_the_roofline_is_what_no_tiling_can_do_without():
    net = region()
    workload = templates.workload_of(net.layers[0], net, CONFIG)
    least = templates.least_cycles(workload, CONFIG)
    flops = LayerKernels(CONFIG).least_flops(workload, ())
    assert flops == 512 * least
    for tiling in (Tiling(10, 10, 3, 2), Tiling(5, 10, 2, 1), Tiling(2, 5, 1, 1)):
        cycles = templates.estimated_cycles(workload, tiling.choice(), SPEC)
        assert cycles > least


@pytest.mark.parametrize("name", ["first", "second", "add", "pool"])
def test_canonical_functions_of_all_kinds(name):
    layer = next(t for t in extract_layers([region()], SPEC) if t.task.name == name)
    assert "main" in {v.name_hint for v in layer.task.module.functions}
