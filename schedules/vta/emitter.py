"""Steps of consecutive layers as one stream: loads run ahead of what is computed.

A LOAD goes into the stream as early as its place on the chip and its data allow: after the step
that used the place last and after the one that stored the data, and before the step that is
computed next. So the load queue works on the next parts, also of the next layer, while the compute
queue is busy, and no instruction waits for one that comes after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from schedules.vta.steps import Apply, Fetch, Multiply, Step
from schedules.vta.stream import Stream

#: Steps that are looked at for loads to start early.
LOOK_AHEAD = 8


class Emitter:
    """Puts steps into a stream.

    Args:
        stream: Receives the instructions.

    Attributes:
        buffers: For each instruction the buffer of constants that its address counts from;
            empty: the activations, or no address.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.buffers: dict[int, str] = {}

    def run(self, steps: Iterator[Step]) -> None:
        """All steps, then FINISH."""
        waiting: deque[tuple[Step, deque[Fetch]]] = deque()
        done = 0
        for step in steps:
            waiting.append((step, deque(step.fetches)))
            if len(waiting) > LOOK_AHEAD:
                done = self._advance(waiting, done)
        while waiting:
            done = self._advance(waiting, done)
        self._stream.owner = -1
        self._stream.finish()

    def _advance(self, waiting: deque[tuple[Step, deque[Fetch]]], done: int) -> int:
        """One step, and the loads that can go before it."""
        self._load(waiting, done)
        step, left = waiting.popleft()
        if left:
            raise ValueError("a step's loads wait for the step itself")
        stream = self._stream
        stream.owner = step.owner
        for code in step.code:
            if isinstance(code, Multiply):
                stream.gemm(code.gemm, inp=code.inp, wgt=code.wgt, acc=code.acc)
            elif isinstance(code, Apply):
                stream.alu(code.alu, acc=code.acc)
            else:
                stream.own(code.load)
                self.buffers[len(stream.entries) - 1] = code.buffer
        for store in step.stores:
            stream.store(store)
        return done + 1

    def _load(self, waiting: deque[tuple[Step, deque[Fetch]]], done: int) -> None:
        """Loads of the waiting steps, in order, up to the first that has to wait for a step."""
        for step, left in waiting:
            self._stream.owner = step.owner
            while left:
                fetch = left[0]
                if fetch.after >= done:
                    return
                left.popleft()
                self._stream.load(fetch.load, constant=bool(fetch.buffer))
                if fetch.buffer:
                    self.buffers[len(self._stream.entries) - 1] = fetch.buffer


__all__ = ["LOOK_AHEAD", "Emitter"]
