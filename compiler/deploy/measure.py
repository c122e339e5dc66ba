"""Runs a search's candidates on boards: TVM's RPC through SSH, each board as often as it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler.deploy.board import Board, Facts, check_board
from compiler.deploy.processor import processor
from compiler.deploy.tunnel import Tunnel, install_runner
from compiler.errors import DeployError, DeviceError
from compiler.tune.measure.base import Failed
from compiler.tune.measure.processes import Worker, WorkerServer
from compiler.tune.measure.rpc import DeviceRunner, Job
from compiler.tune.measure.settings import Limits, Timing
from compiler.tune.measure.stages import Cancelled
from schedules.records import Cpu
from targets.spec import TargetSpec

#: What a candidate and its data may need beside the runner.
_LEAST_BYTES = 32 << 20
_POLL_S = 0.2
_LONGEST_PAUSE_S = 15.0


@dataclass
class BoardInUse:
    """A board that does, and the way to it."""

    name: str
    facts: Facts
    tunnel: Tunnel


def usable_boards(
    spec: TargetSpec,
    boards: Mapping[str, Board],
    tell: Callable[[str], None],
    wheels: Path | None = None,
) -> list[BoardInUse]:
    """The boards that can run candidates, each with an open way to it.

    Args:
        spec: The target that candidates are built for.
        boards: The boards by their names.
        tell: Takes notes: what is wrong with those that are left out, and with figures.
        wheels: As in `compiler.deploy.libraries.runtime_libraries`.

    Raises:
        DeviceError, DeployError: None can be used; why the first one cannot.
        FileError: The cache cannot be written.
    """
    wanted = {
        "machine": spec.machine, "target": spec.name, "required_features": sorted(spec.features)
    }  # fmt: skip
    found: list[BoardInUse] = []
    errors: list[DeviceError | DeployError] = []
    for name, board in boards.items():
        try:
            facts = board.probe()
            check_board(facts, wanted, _LEAST_BYTES, name)
            tunnel = Tunnel(board, install_runner(board, facts, wheels, tell))
            tunnel.open()
        except (DeviceError, DeployError) as error:
            errors.append(error)
            tell(f"{name} is left out: {error.message}")
            continue
        except BaseException:
            for device in found:
                device.tunnel.close()
            raise
        found.append(BoardInUse(name, facts, tunnel))
        if facts.governor not in ("", "performance"):
            tell(
                f"the clock of {name} follows the load ({facts.governor}): figures will vary; "
                "set the governor to performance there"
            )
    if not found:
        raise errors[0]
    return found


class BoardRunner(DeviceRunner):
    """Runs candidates on boards, one candidate a board at a time.

    A board that vanishes costs nothing but time: its candidate goes to another one, and it is
    tried again and again to reach it. When none has answered for a while, what is left of the
    batch counts as cancelled, and the next call raises.

    Args:
        server: Where workers are forked; the caller closes it after this.
        spec: The target that candidates were built for.
        boards: The boards by their names.
        timing: How candidates are timed.
        limits: What a run may cost.
        wheels: As in `compiler.deploy.libraries.runtime_libraries`.
        patience_s: Seconds without any board after which it is given up.
        acquire_s: Seconds to wait for the server of a board.
        margin_s: Seconds beyond a run's own limit, for uploads and the reference.

    Raises:
        DeviceError: No board can be used: it cannot be reached, is another machine, lacks
            features, memory or room; or the boards have different processors.
        DeployError: There is no runtime, runner or ssh program.
        FileError: The cache cannot be written.
    """

    def __init__(
        self,
        server: WorkerServer,
        spec: TargetSpec,
        boards: Mapping[str, Board],
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
        wheels: Path | None = None,
        patience_s: float = 60.0,
        acquire_s: float = 30.0,
        margin_s: float = 60.0,
    ) -> None:
        self._notes: list[str] = []
        self._patience_s = patience_s
        self._devices = usable_boards(spec, boards, self._notes.append, wheels)
        self._cpu = _same_processor(self._devices, spec)
        super().__init__(
            server, name=f"rpc:{self._cpu.name.partition(' (')[0]}",
            where=", ".join(device.name for device in self._devices), options={}, spec=spec,
            timing=timing, limits=limits, acquire_s=acquire_s, margin_s=margin_s,
        )  # fmt: skip
        self._gone_since = time.monotonic()
        self._reached = True  # by a candidate, since the last board was lost
        self._start(len(self._devices))

    @property
    def cpu(self) -> Cpu:
        """The boards' processor."""
        return self._cpu

    def notes(self) -> list[str]:
        """What happened to boards since this was asked last."""
        with self._lock:
            told, self._notes = self._notes, []
        return told

    def _acquire(self, index: int, worker: Worker, cancelled: Cancelled) -> None:
        """The server on a board, through the tunnel."""
        order = {"order": "acquire", "address": ["127.0.0.1", self._devices[index].tunnel.open()]}
        self._ask(worker, order, self._acquire_s, cancelled)
        self._reached = True

    def _go_without(self, index: int, job: Job, reason: str) -> bool:
        """Try to reach a board again until it answers; False if the search is over before.

        Its candidate goes to another one meanwhile.
        """
        device = self._devices[index]
        reason = device.tunnel.why_lost() or reason
        device.tunnel.close()
        with self._lock:
            self._alive -= 1
            others = self._alive
            if others == 0 and self._reached:  # a board that is there but lets none in is gone
                self._gone_since = time.monotonic()
                self._reached = False
            self._jobs.put(job)
            self._notes.append(
                f"{device.name} does not answer ({reason}); "
                + (f"the others go on: {others}" if others else "waiting for it")
            )
        pause, next_try = 1.0, time.monotonic() + 1.0
        while not self._closed.wait(_POLL_S):
            with self._lock:
                if self._ended():
                    return False
                if self._alive == 0:
                    self._discard_cancelled()
                    if time.monotonic() - self._gone_since > self._patience_s:
                        self._end(reason)
                        return False
            if time.monotonic() < next_try:
                continue
            try:
                device.tunnel.open()
            except (DeviceError, DeployError) as error:
                reason = error.message
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                next_try = time.monotonic() + pause
                continue
            with self._lock:
                if self._ended():
                    return False
                self._alive += 1
                self._notes.append(f"{device.name} answers again")
            return True
        return False

    def _ended(self) -> bool:
        """Whether the search is over; asked with the lock held."""
        return self._over is not None

    def _discard_cancelled(self) -> None:
        """Nobody takes candidates now; those that nobody waits for any more must not wait."""
        for _ in range(self._jobs.qsize()):
            job = self._jobs.get()
            if job is not None and job.cancelled():
                job.future.set_result(Failed("cancelled", "cancelled"))
            else:
                self._jobs.put(job)

    def close(self) -> None:
        """See `Runner`."""
        super().close()
        for device in self._devices:
            device.tunnel.close()


def _same_processor(devices: list[BoardInUse], spec: TargetSpec) -> Cpu:
    """The processor of all the boards.

    Raises:
        DeviceError: They have different ones, whose times cannot be compared.
    """
    first, *others = [(device.name, processor(device.facts, spec)) for device in devices]
    for name, cpu in others:
        if (cpu.name, cpu.id) != (first[1].name, first[1].id):
            for device in devices:
                device.tunnel.close()
            raise DeviceError(
                f"{first[0]} is a {first[1].name}, and {name} a {cpu.name}: what one takes says "
                "nothing of the other",
                where="device",
                hint="tune on devices of one kind at a time",
            )
    return first[1]


__all__ = ["BoardInUse", "BoardRunner", "usable_boards"]
