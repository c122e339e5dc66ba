"""A model measured on a board, whole and kernel by kernel, for its report."""

from __future__ import annotations

import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.deploy.board import Board, Facts, deploy_to_board, time_on_board
from compiler.deploy.devices import find_device
from compiler.deploy.folder import write_deployment
from compiler.deploy.runner import Tell
from compiler.errors import DeviceError
from compiler.estimate.report import BoardRun
from compiler.report.environment import versions
from compiler.report.model import Environment
from compiler.report.profile import Profile

if TYPE_CHECKING:
    from compiler.package import Bundle


def run_on_device(
    bundle: Bundle,
    device: str,
    *,
    repeat: int = 50,
    warmup: int = 10,
    threads: int | None = None,
    wheels: Path | None = None,
    tell: Tell | None = None,
) -> tuple[BoardRun, dict[str, Any]]:
    """Deploy a model to a board, test it there, and time whole runs and every kernel.

    Args:
        bundle: The model.
        device: A name among `tilewright devices`, or ``user@host``.
        repeat: Whole runs to time; kernels are timed in as many more.
        warmup: Runs before them.
        threads: Threads to run on; None for as many as it was compiled for.
        wheels: As in `compiler.deploy.runtime_libraries`.
        tell: Called with each step.

    Returns:
        What was measured, and what the runner printed, with its self-test.

    Raises:
        DeployError: There is no such device, or no runtime for its machine.
        DeviceError: It cannot be reached, cannot run the model, or the self-test fails there.
    """
    say = tell or (lambda _text: None)
    board = find_device(device)
    facts = board.probe()
    with tempfile.TemporaryDirectory(prefix="tilewright-deploy-") as work:
        done = write_deployment(bundle, Path(work) / "model", wheels=wheels, tell=tell)
        selftest = deploy_to_board(done.path, board, tell)
    say(f"measuring on {board.host}")
    timing = time_on_board(
        board, bundle.name, repeat=repeat, warmup=warmup, threads=threads, profile=True
    )
    name = facts.model or facts.machine
    words = name if device == board.host else f"{device} ({name})"
    if facts.governor and facts.governor != "performance":
        say(
            f"the clock of {board.host} follows the load ({facts.governor}): figures will vary; "
            "set the governor to performance there"
        )
        words += f", clock by the governor {facts.governor}"
    run = BoardRun(
        device=words,
        environment=_environment(facts, threads or bundle.threads),
        profile=_profile(timing, warmup, board),
        peak_memory_bytes=1024.0 * float(timing["peak_memory_kib"]),
    )
    return run, {**timing, "selftest": selftest}


def _environment(facts: Facts, threads: int) -> Environment:
    return Environment(
        cpu=facts.model or facts.machine,
        system=f"Linux {facts.kernel} {facts.machine}",
        threads=threads,
        pinned_core=None,
        load_1min=None,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
    )


def _profile(timing: dict[str, Any], warmup: int, board: Board) -> Profile:
    try:
        runs = tuple(float(value) for value in timing["run_ms"])
        calls = [(str(name), float(value)) for name, value in timing["kernels"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(
            f"the runner's times cannot be understood: {error}",
            where=board.host,
            hint="check the board's memory and disk, then try again",
        ) from error
    return Profile(
        run_ms=runs,
        warmup=warmup,
        call_names=tuple(name for name, _ in calls),
        call_ms=tuple(value for _, value in calls),
        # Kernels are timed in runs of their own: what interrupts them is not seen.
        replay_ms=(sum(value for _, value in calls),),
        overhead_us=0.0,
        allocated_bytes=0,
        live_bytes=(0,) * len(calls),
    )


__all__ = ["run_on_device"]
