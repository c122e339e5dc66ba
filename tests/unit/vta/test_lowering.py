"""Lowering to VTA: regions, tilings, tokens, micro-ops, memory and what cannot be lowered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from schedules.vta.account import account
from schedules.vta.defaults import candidates, default_tiling
from schedules.vta.estimate import estimated_cycles
from schedules.vta.fits import cycles, refusal
from schedules.vta.layers import (
    Addend,
    Conv2d,
    MaxPool2d,
    Region,
    Step,
    Sum,
    Tensor,
    average_pool,
    dense,
)
from schedules.vta.packing import pack_tensor, unpack_tensor
from schedules.vta.program import LoweringError, build_program
from schedules.vta.reference import reference_run
from schedules.vta.stream import LimitError, Stream
from schedules.vta.tiling import Layout, Tiling
from schedules.vta.uops import UopMemory
from schedules.vta.work import Copy, Imm, Product, Vector, normalize
from targets.vta import AluOp, Gemm, Load, Memory, Store, Uop, VtaConfig, decode, simulate
from tests.support.vta_cases import SMALL, run_and_compare

CONFIG = VtaConfig()
RANDOM = np.random.default_rng(7)


def weights(*shape: int, spread: int = 20) -> np.ndarray:
    return np.clip(np.rint(RANDOM.normal(0, spread, shape)), -127, 127).astype(np.int8)


def conv(
    steps: tuple[Step, ...] = (Step(9, 0),), *, channels: int = 32, size: int = 8,
    outputs: int = 32, kernel: int = 3, bias: int = 1000, low: int = -128,
    more: tuple[Tensor, ...] = (), groups: int = 1, **fields: object,
) -> Region:  # fmt: skip
    """A region of one convolution, of padding that keeps the size."""
    data = Tensor("data", channels, size, size, low)
    layer = Conv2d(
        "conv", "data", "out", weights(outputs, channels // groups, kernel, kernel),
        RANDOM.integers(-bias, bias + 1, outputs).astype(np.int32), steps,
        groups=groups, **{"padding": (kernel // 2,) * 4, **fields},
    )  # fmt: skip
    stride = layer.strides[0]
    made = Tensor("out", outputs, (size - 1) // stride + 1, (size - 1) // stride + 1)
    names = ("data", *(t.name for t in more))
    return Region("region", (data, made, *more), (layer,), names, ("out",))


def check(region: Region, config: VtaConfig = CONFIG, **choices: object) -> int:
    return run_and_compare(build_program(region, config, choices or None), RANDOM)


class TestRegions:
    """What a region refuses."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"data": "nobody"}, "which nobody wrote"),
            ({"output": "data"}, "no tensor of its own"),
            ({"weight": np.zeros((32, 32, 3, 3), np.int32)}, "weights are int32"),
            ({"bias": np.zeros(3, np.int32)}, "bias is int32"),
            ({"steps": ()}, "no requantization"),
            ({"steps": (Step(31),)}, "shifts 31"),
            ({"steps": (Step((1, 2)),)}, "2 shifts for 32 channels"),
            ({"steps": (Step(3, -300, 127),)}, "is no int8"),
            ({"steps": (Step(3, adds=(Addend("other"),)),)}, "another shape"),
            ({"padding": (0, 0, 0, 0)}, "its result is"),
            ({"groups": 3}, "in 3 groups"),
        ],
    )
    def test_of_layers_that_do_not_fit_together(self, change, message):
        region = conv(more=(Tensor("other", 5),))
        with pytest.raises(ValueError, match=message):
            replace(region, layers=(replace(region.layers[0], **change),))

    def test_of_two_tensors_with_one_name(self):
        region = conv()
        with pytest.raises(ValueError, match="two tensors 'data'"):
            replace(region, tensors=(*region.tensors, region.tensors[0]))

    def test_average_pooling_of_other_windows(self):
        with pytest.raises(ValueError, match="9 pixels"):
            average_pool("pool", Tensor("data", 16, 9, 9), "out", (3, 3), strides=(3, 3))


class TestPacking:
    @pytest.mark.parametrize("config", [CONFIG, VtaConfig(batch=2), VtaConfig(block=8,
                             wgt_buffer_bytes=1 << 15, inp_buffer_bytes=1 << 14,
                             acc_buffer_bytes=1 << 16)])  # fmt: skip
    def test_there_and_back(self, config):
        tensor = Tensor("x", 19, 3, 5)
        array = RANDOM.integers(-128, 128, tensor.shape).astype(np.int8)
        packed = pack_tensor(array, tensor, config)
        assert packed[0, 2, 4, 3] == array[3, 2, 4]
        assert not packed[-1, :, :, 19 % config.block : config.block].any()
        np.testing.assert_array_equal(unpack_tensor(packed, tensor, config), array)

    def test_of_another_size(self):
        with pytest.raises(ValueError, match="x is int8"):
            pack_tensor(np.zeros(4, np.int8), Tensor("x", 5), CONFIG)


class TestOperations:
    """How layers become operations on accumulators."""

    def test_rounding_and_bias_cost_one_product(self):
        work = normalize(conv().layers[0], conv(), CONFIG)
        assert [type(o) for o in work.operations] == [Product, Imm, Imm, Imm]
        assert work.product.bias_products == 1
        assert [o.op for o in work.operations[1:]] == [AluOp.SHR, AluOp.MAX, AluOp.MIN]

    def test_limits_that_nothing_reaches_are_left_out(self):
        region = conv((Step(12, -128, 127),), channels=16, kernel=1)
        work = normalize(region.layers[0], region, CONFIG)
        assert [type(o) for o in work.operations] == [Product, Imm]
        check(region)

    def test_the_rounding_of_a_second_step_is_in_the_first_one(self):
        other = Tensor("other", 32, 8, 8)
        steps = (Step(9), Step(1, 0, adds=(Addend("other"),)))
        region = conv(steps, more=(other,))
        work = normalize(region.layers[0], region, CONFIG)
        adds = [o for o in work.operations if isinstance(o, Imm) and o.op == AluOp.ADD]
        assert not adds
        assert sum(isinstance(o, Copy) for o in work.operations) == 1
        assert Imm(AluOp.MIN, 128) in work.operations  # 127 and the half of the next step
        check(region)

    def test_shifts_of_single_channels_are_vectors(self):
        shifts = tuple(8 + n % 3 for n in range(32))
        region = conv((Step(shifts, 0),))
        work = normalize(region.layers[0], region, CONFIG)
        assert [o.op for o in work.operations if isinstance(o, Vector)] == [AluOp.SHR]
        assert work.vectors.shape == (1, 2, 16)
        check(region)

    @pytest.mark.parametrize("bias", [0, 241_000, 500_000, 3_000_000])
    def test_biases_of_any_size(self, bias):
        check(conv((Step(12),), bias=bias, size=4))

    @pytest.mark.parametrize("shift", [0, 6, 8, 12])
    def test_residuals_in_the_sum(self, shift):
        other = Tensor("other", 32, 8, 8)
        check(conv((Step(9, 0, adds=(Addend("other", shift),)),), more=(other,)))

    def test_sums_of_tensors_of_different_scales(self):
        tensors = tuple(Tensor(n, 20, 5, 6) for n in ("a", "b", "c", "out"))
        step = Step(3, -100, 90, (Addend("a", 2), Addend("b", 9), Addend("c")))
        layer = Sum("sum", "out", (step, Step(0, up=0)))
        check(Region("sums", tensors, (layer,), ("a", "b", "c"), ("out",)))


class TestLayers:
    """Kinds of layers, bit for bit."""

    def test_dense(self):
        layer = dense(
            "fc", "data", "out", weights(40, 100), np.arange(40, dtype=np.int32), (Step(7),)
        )
        tensors = (Tensor("data", 100), Tensor("out", 40))
        check(Region("fc", tensors, (layer,), ("data",), ("out",)))

    def test_matrix_product(self):
        layer = dense("mm", "data", "out", weights(48, 64), np.zeros(48, np.int32), (Step(8),))
        tensors = (Tensor("data", 64, 70, 1), Tensor("out", 48, 70, 1))
        check(Region("mm", tensors, (layer,), ("data",), ("out",)))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_depthwise(self, stride):
        region = conv((Step(6, 0, 96),), groups=32, strides=(stride, stride))
        work = normalize(region.layers[0], region, CONFIG)
        assert work.product.diagonal
        built = build_program(region, CONFIG)
        pixels = built.region.tensor("out").height ** 2
        # 2 blocks, 9 taps and a bias: a cycle each for 16 numbers, less at the borders.
        assert built.layers[0].steps <= 2 * 10 * pixels
        run_and_compare(built, RANDOM)

    def test_average_pooling(self):
        data = Tensor("data", 24, 8, 8)
        layer = average_pool("pool", data, "out", (4, 4), strides=(4, 4))
        check(Region("pool", (data, Tensor("out", 24, 2, 2)), (layer,), ("data",), ("out",)))

    @pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0)])
    def test_maximum_pooling(self, padding):
        layer = MaxPool2d("pool", "data", "out", (3, 3), (2, 2), padding, low=-60)
        size = [(9 + padding[n] + padding[n + 2] - 3) // 2 + 1 for n in (0, 1)]
        tensors = (Tensor("data", 20, 9, 9), Tensor("out", 20, *size))
        check(Region("pool", tensors, (layer,), ("data",), ("out",)))

    def test_small_buffers(self):
        check(conv(size=12, channels=40, outputs=50), SMALL)


class TestTilings:
    def test_every_candidate_gives_the_same_bits(self):
        region = conv(size=9, channels=32, outputs=48)
        work = normalize(region.layers[0], region, CONFIG)
        tilings = list(candidates(work, CONFIG))
        assert len({(t.order, t.halves) for t in tilings}) == 4
        for tiling in tilings[:: max(1, len(tilings) // 12)]:
            for borders in ("skip", "pad"):
                check(region, conv=replace(tiling, borders=borders).choice())

    def test_products_with_zeros_around_the_image_are_left_out(self):
        region = conv(size=7)
        tiling = Tiling(7, 7, 2, 2)
        padded = build_program(region, CONFIG, {"conv": replace(tiling, borders="pad").choice()})
        skipped = build_program(region, CONFIG, {"conv": tiling.choice()})
        bias = 49 * 2
        assert padded.layers[0].steps == 4 * 9 * 49 + bias
        assert skipped.layers[0].steps == 4 * 19 * 19 + bias

    def test_estimates_are_near_the_simulation(self):
        region = conv(size=14, channels=64, outputs=64)
        layer = region.layers[0]
        work = normalize(layer, region, CONFIG)
        layout = Layout(work, default_tiling(work, CONFIG), CONFIG)
        result, _ = simulate(build_program(region, CONFIG).program)
        assert estimated_cycles(layout) == pytest.approx(result.cycles, rel=0.1)
        assert cycles(layer, region, CONFIG) == estimated_cycles(layout)

    @pytest.mark.parametrize(
        ("tiling", "message"),
        [
            (Tiling(100, 8, 1, 1), "larger than the output"),
            (Tiling(56, 56, 1, 1), "3136 accumulators; there is room for 1024"),
            (Tiling(8, 56, 1, 4), "inputs; there is room for 1023"),
            (Tiling(1, 56, 16, 4), "576 weights|640 weights|592 weights"),
            (Tiling(2, 56, 2, 9), "larger than the input"),
        ],
    )
    def test_that_are_over_a_limit(self, tiling, message):
        region = conv(size=56, channels=64, outputs=256)
        with pytest.raises(LoweringError, match=message):
            build_program(region, CONFIG, {"conv": tiling.choice()})

    @pytest.mark.parametrize(
        "change", [{"order": "diagonal"}, {"rows": 0}, {"rows": True}, {"more": 1}]
    )
    def test_that_are_none(self, change):
        choice = {**Tiling(2, 8, 1, 1).choice(), **change}
        with pytest.raises(LoweringError, match=r"tiling|decisions"):
            build_program(conv(), CONFIG, {"conv": choice})


class TestRefusals:
    """Layers that cannot run on a VTA, with the reason."""

    def test_a_window_larger_than_the_memories(self):
        region = conv(size=32, kernel=23, channels=1, outputs=1)
        assert "529 weights; there is room for 508" in refusal(region.layers[0], region, CONFIG)
        with pytest.raises(LoweringError, match="layer conv on vta: no tiling fits"):
            build_program(region, CONFIG)

    def test_a_weight_memory_without_room_for_identities(self):
        config = replace(CONFIG, wgt_buffer_bytes=512)
        other = Tensor("other", 32, 8, 8)
        region = conv((Step(9, adds=(Addend("other"),)),), more=(other,))
        assert "identity" in refusal(region.layers[0], region, config)

    def test_widths_that_are_not_lowered(self):
        config = replace(CONFIG, inp_bits=16, inp_buffer_bytes=1 << 16)
        why = refusal(conv().layers[0], conv(), config)
        assert why == "only 8-bit integers are lowered; this VTA has inputs of 16 bits"
        with pytest.raises(LoweringError, match="8"):
            build_program(conv(), config)

    def test_a_residual_far_out_of_scale(self):
        other = Tensor("other", 32, 8, 8)
        steps = (Step(9), Step(0, adds=(Addend("other", 20),)))
        region = conv(steps, more=(other,))
        assert refusal(region.layers[0], region, CONFIG) == "other is shifted by 20"


def chain() -> Region:
    """Three convolutions and a residual that the host sees only the ends of."""
    tensors, layers = [Tensor("data", 32, 9, 9)], []
    for n, (source, adds) in enumerate((("data", ()), ("t0", ()), ("t1", ("t0",)))):
        step = Step(9, 0, adds=tuple(Addend(a, 4) for a in adds))
        tensors.append(Tensor(f"t{n}", 32, 9, 9))
        layers.append(Conv2d(f"conv{n}", source, f"t{n}", weights(32, 32, 3, 3),
                             np.zeros(32, np.int32), (step,), padding=(1, 1, 1, 1)))  # fmt: skip
    return Region("chain", tuple(tensors), tuple(layers), ("data",), ("t2",))


class TestPrograms:
    """One stream of instructions for several layers."""

    def test_the_host_sees_inputs_and_outputs_only(self):
        built = build_program(chain(), CONFIG)
        roles = {b.name: b.role for b in built.program.buffers}
        assert (roles["data"], roles["t2"], roles["scratch"]) == ("input", "output", "scratch")
        assert built.places["t0"].buffer == "scratch"
        assert built.places["t0"].offset != built.places["t1"].offset
        run_and_compare(built, RANDOM)

    def test_scratch_memory_is_used_again(self):
        tensors = [Tensor("data", 16, 6, 6)]
        layers = []
        for n in range(5):
            tensors.append(Tensor(f"t{n}", 16, 6, 6))
            layers.append(Conv2d(f"c{n}", tensors[n].name, f"t{n}", weights(16, 16, 1, 1),
                                 np.zeros(16, np.int32), (Step(8),)))  # fmt: skip
        region = Region("line", tuple(tensors), tuple(layers), ("data",), ("t4",))
        built = build_program(region, CONFIG)
        assert {built.places[f"t{n}"].offset for n in range(4)} == {0, 640}
        run_and_compare(built, RANDOM)

    def test_loads_of_a_layer_run_while_the_one_before_is_computed(self):
        built = build_program(chain(), CONFIG)
        code = [decode(row.tobytes(), CONFIG) for row in built.program.instructions]
        first = next(i for i, x in enumerate(code) if built.owners[i] == 1 and isinstance(x, Load))
        last = max(i for i, x in enumerate(code) if built.owners[i] == 0 and isinstance(x, Store))
        assert first < last

    def test_addresses_lie_in_the_buffers_that_relocations_name(self):
        built = build_program(chain(), CONFIG)
        sizes = {Memory.INP: 16, Memory.OUT: 16, Memory.WGT: 256, Memory.ACC: 64, Memory.UOP: 4}
        count = 0
        for row, index in zip(built.program.instructions, built.relocations, strict=True):
            x = decode(row.tobytes(), CONFIG)
            if not isinstance(x, Load | Store) or x.is_noop:
                assert index == -1
                continue
            buffer = built.program.buffers[index]
            assert buffer.address <= x.dram_base * sizes[x.memory] < buffer.end
            count += 1
        assert count > 10

    def test_cycles_of_layers_add_up(self):
        built = build_program(chain(), CONFIG)
        result, _ = simulate(built.program)
        lines = account(built, result)
        assert [line.name for line in lines] == ["conv0", "conv1", "conv2"]
        assert sum(line.cycles for line in lines) == result.cycles
        assert sum(line.gemm_steps for line in lines) == result.gemm_steps
        assert sum(line.alu_steps for line in lines) == result.alu_steps
        assert sum(line.stored for line in lines) == result.stored_bytes
        for memory, size in result.loaded_bytes.items():
            assert sum(line.loaded[memory] for line in lines) == size
        assert all(0 < line.utilization(256) < 1.3 for line in lines)

    def test_equal_programs_have_equal_bytes(self):
        region = chain()
        one, other = (build_program(region, CONFIG).program for _ in range(2))
        np.testing.assert_array_equal(one.instructions, other.instructions)

    def test_every_token_is_needed(self):
        """Without any one of them the simulator reports a race or an unordered FINISH."""
        built = build_program(chain(), CONFIG)
        stream = [decode(r.tobytes(), CONFIG) for r in built.program.instructions]
        tokens = dropped = 0
        for pop, push, source in (("pop_prev", "push_next", -1), ("pop_next", "push_prev", 1)):
            for stage in (0, 1, 2):
                pops = [i for i, x in enumerate(stream) if x.stage == stage and getattr(x, pop)]
                pushes = [i for i, x in enumerate(stream)
                          if x.stage == stage + source and getattr(x, push)]  # fmt: skip
                for taken, given in list(zip(pops, pushes, strict=True))[:: max(1, len(pops) // 3)]:
                    changed = list(stream)
                    changed[taken] = replace(changed[taken], **{pop: False})
                    changed[given] = replace(changed[given], **{push: False})
                    dropped += not _runs(built, changed)
                    tokens += 1
        assert dropped == tokens > 8


def _runs(built: object, stream: list[object]) -> bool:
    from targets.vta.simulator import simulate_stream

    result = simulate_stream(stream, built.program.image(), CONFIG, functional=False)
    return result.ok


class TestStream:
    """Tokens follow from what instructions touch."""

    def load(self, at: int, place: int) -> Load:
        return Load(
            memory=Memory.INP, sram_base=at, dram_base=place, y_size=1, x_size=4, x_stride=4
        )

    def test_none_where_nothing_is_shared(self):
        stream = Stream(CONFIG, 64)
        stream.load(self.load(0, 0), constant=False)
        stream.load(self.load(4, 4), constant=False)
        stream.gemm(Gemm(reset=True, iter_out=1, iter_in=1, uop_end=1), acc=slice(0, 4))
        assert not any(e.pop_prev or e.push_next for e in stream.entries)

    def test_a_load_waits_for_a_store_by_way_of_the_compute_queue(self):
        stream = Stream(CONFIG, 64)
        gemm = Gemm(iter_out=1, iter_in=1, uop_end=1)
        stream.load(self.load(0, 0), constant=False)
        stream.gemm(gemm, inp=[slice(0, 4)], acc=slice(0, 4))
        stream.store(Store(memory=Memory.OUT, dram_base=8, y_size=1, x_size=4, x_stride=4))
        stream.load(self.load(16, 8), constant=False)
        relay, last = stream.entries[-2:]
        assert relay.instruction == Load(memory=Memory.UOP)
        assert (relay.pop_next, relay.push_prev, last.pop_next) == (True, True, True)

    def test_too_many_tokens_are_refused(self):
        stream = Stream(CONFIG, 4096)
        gemm = Gemm(iter_out=1, iter_in=1, uop_end=1)
        for n in range(200):
            stream.load(self.load(4 * n, 4 * n), constant=False)
        for n in range(96):
            stream.gemm(gemm, inp=[slice(4 * n, 4 * n + 4)], acc=slice(0, 4))
        with pytest.raises(LimitError, match="more than 96 tokens from LOAD to COMPUTE"):
            stream.gemm(gemm, inp=[slice(384, 388)], acc=slice(0, 4))


class TestMicroOps:
    def test_what_is_there_is_not_loaded_again(self):
        memory = UopMemory(CONFIG)
        long = memory.words([Uop(n) for n in range(8)])
        part = memory.words([Uop(n) for n in range(3, 6)])
        assert memory.require([long]) == (0, 0, 8)
        assert memory.require([part, long]) is None
        assert memory.place(part) == (3, 6)

    def test_a_full_memory_begins_anew(self):
        memory = UopMemory(SMALL)
        first = memory.words([Uop(n % 100, n % 60) for n in range(200)])
        second = memory.words([Uop(n % 100, n % 61) for n in range(200)])
        assert memory.require([first])[0] == 0
        assert memory.require([second])[0] == 0
        begin, source, count = memory.require([first])
        assert (begin, source, count) == (0, 0, 200)  # its copy in DRAM is used again

    def test_more_than_the_memory_holds(self):
        memory = UopMemory(SMALL)
        with pytest.raises(ValueError, match="300 micro-ops at once; there is room for 256"):
            memory.require([memory.words([Uop(n % 128, n // 128) for n in range(300)])])


class TestReference:
    def test_an_input_beyond_its_limits(self):
        region = conv(low=0)
        data = np.full((32, 8, 8), -1, np.int8)
        with pytest.raises(ValueError, match="is from 0 to 127"):
            reference_run(region, {"data": data})

    def test_a_missing_input(self):
        with pytest.raises(ValueError, match="no input 'data'"):
            reference_run(conv(), {})

    def test_a_sum_of_more_than_32_bits(self):
        steps = (Step(2, adds=(Addend("other", 20),) * 17),)
        region = conv(steps, more=(Tensor("other", 32, 8, 8),))
        with pytest.raises(OverflowError):
            reference_run(region, {n: np.full((32, 8, 8), 127, np.int8) for n in region.inputs})
