"""Where a program's simulated cycles and bytes go, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schedules.vta.program import Built
from targets.vta.isa import Alu, Instruction, Load, Memory, Stage, Store, decode
from targets.vta.simulator import Simulation
from targets.vta.timing import element_bytes


@dataclass(frozen=True, slots=True)
class LayerAccount:
    """One layer's share of a run. All cycles are simulated.

    Attributes:
        name: The layer's.
        begin: Cycle in which the layer before was computed.
        end: Cycle in which this one was computed; for the last one, in which the program ended.
            So the layers' cycles add up to the program's.
        macs: Multiply-accumulates by the layer's definition, zeros of padding counted.
        gemm_steps: Products of blocks.
        alu_steps: Steps of the vector unit.
        busy: Cycles that the load, compute and store queue worked for it; the load queue works
            for a layer before its begin.
        waiting: Cycles for which the compute queue waited for a token within it.
        loaded: Bytes read from DRAM into INP, WGT, ACC and UOP.
        stored: Bytes written to DRAM.
    """

    name: str
    begin: int
    end: int
    macs: int
    gemm_steps: int
    alu_steps: int
    busy: tuple[int, int, int]
    waiting: int
    loaded: dict[str, int]
    stored: int

    @property
    def cycles(self) -> int:
        """From begin to end."""
        return self.end - self.begin

    def utilization(self, macs_per_cycle: int) -> float:
        """Its definition's multiply-accumulates over those that the matrix unit could have done.

        Products with zeros around an image may be left out, so that it can be more than 1.
        """
        return self.macs / (macs_per_cycle * self.cycles) if self.cycles else 0.0


def account(built: Built, simulation: Simulation) -> tuple[LayerAccount, ...]:
    """Split a run of a built program by layers.

    Args:
        built: The program.
        simulation: What `targets.vta.simulate` saw of it.
    """
    line = simulation.timeline
    code = [decode(row.tobytes(), built.config) for row in built.program.instructions]
    real = np.array([not x.is_noop for x in code])
    result = []
    begin = 0
    for n, layer in enumerate(built.layers):
        mine = built.owners == n
        computed = mine & real & (line.stage == Stage.COMPUTE)
        is_last = n + 1 == len(built.layers)
        end = simulation.cycles if is_last else int(line.done[computed].max(initial=begin))
        busy = [
            int((line.done - line.begun)[mine & (line.stage == stage)].sum()) for stage in Stage
        ]
        waiting = int(line.waited_for_token[mine & (line.stage == Stage.COMPUTE)].sum())
        ours = [code[i] for i in np.flatnonzero(mine)]
        loaded = {
            memory.name: sum(_bytes(x, built) for x in ours
                             if isinstance(x, Load) and x.memory == memory)
            for memory in (Memory.INP, Memory.WGT, Memory.ACC, Memory.UOP)
        }  # fmt: skip
        result.append(LayerAccount(
            name=layer.name, begin=begin, end=end, macs=layer.macs, gemm_steps=layer.steps,
            alu_steps=sum(x.steps for x in ours if isinstance(x, Alu)),
            busy=(busy[0], busy[1], busy[2]), waiting=waiting, loaded=loaded,
            stored=sum(_bytes(x, built) for x in ours if isinstance(x, Store)),
        ))  # fmt: skip
        begin = end
    return tuple(result)


def _bytes(transfer: Instruction, built: Built) -> int:
    if not isinstance(transfer, Load | Store) or transfer.is_noop:
        return 0
    size = element_bytes(transfer.memory, built.config)
    return transfer.x_size * transfer.y_size * size


__all__ = ["LayerAccount", "account"]
