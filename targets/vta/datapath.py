"""What instructions do to the memories, with whole arrays at a time.

`Instruction.execute` states the same element by element. Products go through floating-point
matrix multiplication, in pieces so short that every sum is exact; see
docs/decisions/0011-vta-simulator.md.

GEMM and ALU run the same micro-ops again and again, so what depends on the indices alone, a
*plan*, is worked out once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.vta.config import VtaConfig
from targets.vta.isa import Alu, AluOp, Gemm, Load, Memory, Store, uop_layout
from targets.vta.memories import integer
from targets.vta.timing import element_bytes

Indices = npt.NDArray[np.int64]

#: Plans kept before all are dropped; they hold a few numbers for each step.
_KEPT_STEPS = 4_000_000
#: Inputs gathered at once, so that the working set stays in the cache.
_GATHERED = 1 << 18


@dataclass(frozen=True, slots=True)
class Group:
    """Accumulators that add up equally many products, with weights shared along an axis.

    Attributes:
        dst: (groups, members) accumulators.
        src: (groups, members, products) inputs.
        wgt: (groups, products) weights; all members of a group use the same.
    """

    dst: Indices
    src: Indices
    wgt: Indices


@dataclass(frozen=True, slots=True)
class Plan:
    """What the indices of one GEMM or ALU instruction come to.

    Attributes:
        steps: Micro-ops, loops included.
        dst: Accumulators written, each once, sorted.
        src: Inputs (GEMM) or accumulators (ALU) read, each once, sorted.
        wgt: Weights read, each once, sorted.
        largest: Largest index of dst, src and wgt.
        groups: GEMM's work.
        levels: ALU's work: pairs of dst and src; no pair of a level depends on another of it.
        same_dst: Whether two steps in a row have one destination.
        differs: Whether src is not dst in some step.
    """

    steps: int
    dst: Indices
    src: Indices
    wgt: Indices
    largest: tuple[int, int, int]
    groups: tuple[Group, ...] = ()
    levels: tuple[tuple[Indices, Indices], ...] = ()
    same_dst: bool = False
    differs: bool = False


class Datapath:
    """The on-chip memories and DRAM of one VTA, as the simulator keeps them.

    Attributes:
        dram: Bytes, uint8; written in place.
        uop: uint32 (depth,).
        acc: int32 (depth, batch, block).
        out: (depth, batch, block), of the outputs' width.
    """

    def __init__(self, config: VtaConfig, dram: npt.NDArray[np.uint8], *, functional: bool) -> None:
        self.config = config
        self.dram = dram
        self.functional = functional
        # float32 holds sums of up to 2**24 exactly, float64 up to 2**53.
        product = 1 << (config.inp_bits + config.wgt_bits - 2)
        narrow = product * config.block <= 1 << 24
        self._float: Any = np.float32 if narrow else np.float64
        self._most_products = max(1, (1 << (24 if narrow else 53)) // (product * config.block))
        tile = (config.batch, config.block)
        self.uop = np.zeros(1 << config.uop_index_bits, dtype=np.uint32)
        self.acc = np.zeros((1 << config.acc_index_bits, *tile), dtype=np.int32)
        self.out = np.zeros((1 << config.acc_index_bits, *tile), dtype=integer(config.out_bits))
        self._inp = np.zeros((1 << config.inp_index_bits, *tile), dtype=self._float)
        # Transposed: (in, out), as the multiplication wants it.
        self._wgt = np.zeros(
            (1 << config.wgt_index_bits, config.block, config.block), dtype=self._float
        )
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._kept = 0

    def load(self, instruction: Load) -> None:
        """LOAD; every address is known to be in range."""
        memory = Memory(instruction.memory)
        if not self.functional and memory != Memory.UOP:
            return
        config = self.config
        rows = self._rows(instruction, element_bytes(memory, config))
        view = rows.reshape(-1)
        data: npt.NDArray[Any]
        target: npt.NDArray[Any]
        if memory == Memory.UOP:
            target, data = self.uop, view.view("<u4")
        elif memory == Memory.INP:
            target, data = self._inp, view.view(integer(config.inp_bits))
        elif memory == Memory.WGT:
            target = self._wgt
            data = view.view(integer(config.wgt_bits)).reshape(-1, config.block, config.block)
            data = data.transpose(0, 2, 1)
        else:
            width = 8 if memory == Memory.ACC_8BIT else config.acc_bits
            target, data = self.acc, view.view(integer(width))
        tile = target.shape[1:]
        base, total = instruction.sram_base, instruction.sram_elements
        window = target[base : base + total].reshape(instruction.rows, instruction.row, *tile)
        y, x = instruction.y_size, instruction.x_size
        if total != x * y:
            window[...] = 0
        window[
            instruction.y_pad0 : instruction.y_pad0 + y, instruction.x_pad0 : instruction.x_pad0 + x
        ] = data.reshape(y, x, *tile)

    def store(self, instruction: Store) -> None:
        """STORE; every address is known to be in range."""
        if not self.functional:
            return
        size = self.config.out_bytes
        count = instruction.y_size * instruction.x_size
        values = self.out[instruction.sram_base : instruction.sram_base + count]
        data = np.ascontiguousarray(values).view(np.uint8).reshape(instruction.y_size, -1)
        if instruction.x_stride >= instruction.x_size or instruction.y_size == 1:
            self._rows(instruction, size)[...] = data
            return
        for y in range(instruction.y_size):  # rows overlap: the later one wins
            begin = (instruction.dram_base + y * instruction.x_stride) * size
            self.dram[begin : begin + data.shape[1]] = data[y]

    def gemm(self, instruction: Gemm, plan: Plan) -> None:
        """GEMM; every index is known to be in range."""
        if not self.functional:
            return
        if instruction.reset:
            self.acc[plan.dst] = 0
            return
        for group in plan.groups:
            self._multiply(group)
        self._write_out(plan.dst)

    def alu(self, instruction: Alu, plan: Plan) -> bool:
        """ALU; every index is known to be in range.

        Returns:
            Whether a shift by a tensor met a number outside 0 to 31.
        """
        odd_shift = False
        if not self.functional:
            return odd_shift
        op, imm = instruction.op, np.int32(instruction.imm)
        by_tensor = op == AluOp.SHR and not instruction.use_imm
        for dst, src in plan.levels:
            source = self.acc[src]
            if by_tensor and not odd_shift:
                odd_shift = bool(((source < 0) | (source > 31)).any())
            if instruction.use_imm:
                self.acc[dst] = _apply(op, source, imm, shift_left=instruction.imm < 0)
            else:
                self.acc[dst] = _apply(op, self.acc[dst], source, shift_left=False)
        self._write_out(plan.dst)
        return odd_shift

    def plan(self, instruction: Gemm | Alu) -> Plan:
        """What the instruction's indices come to, with the micro-ops as they are now."""
        window = self.uop[instruction.uop_begin : instruction.uop_end]
        is_gemm = isinstance(instruction, Gemm)
        key = (
            is_gemm,
            window.tobytes(),
            instruction.iter_out,
            instruction.iter_in,
            instruction.dst_out,
            instruction.dst_in,
            instruction.src_out,
            instruction.src_in,
            *((instruction.wgt_out, instruction.wgt_in) if isinstance(instruction, Gemm) else ()),
            isinstance(instruction, Gemm) and instruction.reset,
        )
        found = self._plans.get(key)
        if found is None:
            if self._kept > _KEPT_STEPS:
                self._plans.clear()
                self._kept = 0
            found = self._make_plan(instruction, window)
            self._plans[key] = found
            self._kept += found.steps
        return found

    def _make_plan(self, instruction: Gemm | Alu, window: npt.NDArray[np.uint32]) -> Plan:
        words = window.astype(np.int64)
        fields = [(words >> f.low) & f.most for f in uop_layout(self.config)]

        def indices(base: Indices, out: int, inner: int) -> Indices:
            y = np.arange(instruction.iter_out, dtype=np.int64)[:, None, None] * out
            x = np.arange(instruction.iter_in, dtype=np.int64)[None, :, None] * inner
            return (y + x + base[None, None, :]).reshape(-1)

        none = np.empty(0, dtype=np.int64)
        dst = indices(fields[0], instruction.dst_out, instruction.dst_in)
        src = indices(fields[1], instruction.src_out, instruction.src_in)
        if isinstance(instruction, Gemm):
            if instruction.reset:
                used = np.unique(dst)
                return Plan(dst.size, used, none, none, (int(used[-1]), 0, 0))
            wgt = indices(fields[2], instruction.wgt_out, instruction.wgt_in)
            largest = (int(dst.max()), int(src.max()), int(wgt.max()))
            groups = _groups(dst, src, wgt) if self.functional and self._fit(largest) else ()
            return Plan(dst.size, np.unique(dst), np.unique(src), np.unique(wgt), largest, groups)
        largest = (int(dst.max()), int(src.max()), 0)
        return Plan(
            dst.size,
            np.unique(dst),
            np.unique(src),
            none,
            largest,
            levels=_levels(dst, src) if self.functional else (),
            same_dst=bool((dst[1:] == dst[:-1]).any()),
            differs=bool((dst != src).any()),
        )

    def _fit(self, largest: tuple[int, int, int]) -> bool:
        depths = (len(self.acc), len(self._inp), len(self._wgt))
        return all(a < b for a, b in zip(largest, depths, strict=True))

    def _multiply(self, group: Group) -> None:
        groups, members, products = group.src.shape
        batch, block = self.config.batch, self.config.block
        step = max(1, _GATHERED // max(1, members * products))
        for low in range(0, groups, step):
            part = slice(low, low + step)
            dst = group.dst[part]
            total = np.zeros((*dst.shape, batch, block), dtype=np.int32)
            for first in range(0, products, self._most_products):
                some = slice(first, first + self._most_products)
                inp = self._inp[group.src[part, :, some]]  # (g, members, products, batch, block)
                count, width = inp.shape[0], inp.shape[2]
                if batch > 1:
                    inp = inp.transpose(0, 1, 3, 2, 4)
                left = inp.reshape(count, members * batch, width * block)
                right = self._wgt[group.wgt[part, some]].reshape(count, width * block, block)
                product = np.matmul(left, right)
                wide = product if self._float is np.float32 else product.astype(np.int64)
                total += wide.astype(np.int32).reshape(total.shape)
            self.acc[dst] += total

    def _write_out(self, dst: Indices) -> None:
        self.out[dst] = self.acc[dst].astype(self.out.dtype)

    def _rows(self, instruction: Load | Store, size: int) -> npt.NDArray[np.uint8]:
        """The instruction's rectangle of DRAM as a view: (rows, bytes of a row)."""
        return np.lib.stride_tricks.as_strided(
            self.dram[instruction.dram_base * size :],
            shape=(instruction.y_size, instruction.x_size * size),
            strides=(instruction.x_stride * size, 1),
        )


def _apply(op: int, left: Any, right: Any, *, shift_left: bool) -> Any:
    if op == AluOp.MIN:
        return np.minimum(left, right)
    if op == AluOp.MAX:
        return np.maximum(left, right)
    if op == AluOp.ADD:
        return left + right
    if op == AluOp.MUL:
        return left * right
    return left << (-right & 31) if shift_left else left >> (right & 31)


def _groups(dst: Indices, src: Indices, wgt: Indices) -> tuple[Group, ...]:
    """GEMM's steps, gathered by accumulator and then by the weights that are used there."""
    order = np.argsort(dst, kind="stable")
    used, starts, counts = np.unique(dst[order], return_index=True, return_counts=True)
    result = []
    for count in np.unique(counts):
        chosen = counts == count
        steps = order[starts[chosen][:, None] + np.arange(count)]  # (accumulators, products)
        weights, member_of = np.unique(wgt[steps], axis=0, return_inverse=True)
        by_group = np.argsort(member_of.reshape(-1), kind="stable")
        sizes = np.bincount(member_of.reshape(-1), minlength=len(weights))
        begins = np.cumsum(sizes) - sizes
        for size in np.unique(sizes):
            groups = np.flatnonzero(sizes == size)
            rows = by_group[begins[groups][:, None] + np.arange(size)]  # (groups, members)
            result.append(Group(used[chosen][rows], src[steps[rows]], weights[groups]))
    return tuple(result)


def _levels(dst: Indices, src: Indices) -> tuple[tuple[Indices, Indices], ...]:
    """ALU's steps in an order of levels that gives what one step after another gives."""
    others = np.isin(src, dst) & (src != dst)
    if others.any():
        level = _levels_by_dependence(dst, src)
    else:
        # Each step depends on the earlier ones with its own destination only.
        order = np.argsort(dst, kind="stable")
        _, starts, counts = np.unique(dst[order], return_index=True, return_counts=True)
        level = np.empty(dst.size, dtype=np.int64)
        level[order] = np.arange(dst.size) - np.repeat(starts, counts)
    by_level = np.argsort(level, kind="stable")
    bounds = np.flatnonzero(np.diff(level[by_level])) + 1
    return tuple((dst[part], src[part]) for part in np.split(by_level, bounds))


def _levels_by_dependence(dst: Indices, src: Indices) -> Indices:
    written: dict[int, int] = {}
    read: dict[int, int] = {}
    result = np.empty(dst.size, dtype=np.int64)
    for i, (d, s) in enumerate(zip(dst.tolist(), src.tolist(), strict=True)):
        at = max(written.get(d, -1), written.get(s, -1)) + 1
        # A step that overwrites what an earlier one reads may not come before it, nor with it:
        # a level's writes are in place before the next level reads, not within the level.
        at = max(at, read.get(d, -1))
        result[i] = at
        written[d] = at
        read[s] = max(read.get(s, -1), at)
        read[d] = max(read.get(d, -1), at)
    return result


__all__ = ["Datapath", "Group", "Plan"]
