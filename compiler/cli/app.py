"""The command `tilewright`: its subcommands, and how it ends.

Exit codes: 0 success, 1 internal error, 2 wrong usage, 3 target, 4 model, 5 inputs, 6 bundle,
7 files and disk, 8 verification or a required check failed, 9 an accelerator does not answer or
refuses, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from compiler._version import __version__
from compiler.cli.commands import compile_, inspect_, report, run, targets
from compiler.cli.compare import compare
from compiler.cli.deploy import bench, deploy, devices
from compiler.cli.estimate import estimate
from compiler.cli.output import Session
from compiler.cli.records import records
from compiler.cli.train import train
from compiler.cli.tune import tune
from compiler.cli.vta import vta
from compiler.errors import TilewrightError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="tilewright", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def cli(session: Session, debug: bool) -> None:
    """Compile a trained PyTorch model into a small fast module with an honest report."""
    session.debug = session.debug or debug


_COMMANDS = (
    compile_, train, tune, run, report, targets, inspect_, records, vta, deploy, devices, bench,
    estimate, compare,
)  # fmt: skip
for _command in _COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its code.

    Args:
        arguments: Instead of those of the process.
    """
    sys.exit(run_cli(sys.argv[1:] if arguments is None else arguments))


def run_cli(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    session = Session()
    with warnings.catch_warnings(), _signals(session):
        warnings.showwarning = _show_warning(session)
        try:
            code = cli.main(
                list(arguments), prog_name="tilewright", standalone_mode=False, obj=session
            )
        except click.exceptions.Exit as end:
            return int(end.exit_code)
        except BaseException as error:  # noqa: BLE001 - the last resort; whatever comes, the user is told
            return _end(session, error)
    return code if isinstance(code, int) else 0  # of click's Exit, which main() returns


def _end(session: Session, error: BaseException) -> int:
    """Tell the user how the command failed; the exit code."""
    if session.stopped or isinstance(error, KeyboardInterrupt | click.Abort):
        # Whatever the error looks like: an interrupt in the middle of an import may come out
        # as an ImportError.
        text = "interrupted: " + (session.kept or "nothing was written")
        return _fail(session, error, "Interrupted", text, session.stopped or 130)
    if isinstance(error, TilewrightError):
        return _fail(session, error, type(error).__name__, str(error), error.exit_code)
    if isinstance(error, click.ClickException):
        return _fail(session, error, "UsageError", error.format_message(), 2)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone, as `head` does; keep Python from complaining
        # about it once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    if not isinstance(error, Exception):
        raise error
    return _fail(
        session, error, "InternalError", f"internal error: {type(error).__name__}: {error}", 1
    )


def _fail(session: Session, error: BaseException, kind: str, text: str, code: int) -> int:
    if session.debug:
        traceback.print_exception(error, file=sys.stderr)
    elif kind == "InternalError":
        text += "\n  hint: run again with --debug and report the traceback"
    if isinstance(error, click.UsageError) and error.ctx is not None and not session.json:
        session.message(error.ctx.get_usage())
    session.error(text)
    if session.json:
        session.document(
            {
                "error": {
                    "type": kind,
                    "message": getattr(error, "message", None) or text,
                    "where": getattr(error, "where", None),
                    "hint": getattr(error, "hint", None),
                    "exit_code": code,
                }
            }
        )
    return code


def _show_warning(session: Session) -> Any:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        session.message(f"warning: {message}")

    return show


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM unwind the stack, so that temporary files are removed.

    Python code called from C may swallow the exception, so that the session keeps it in mind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        again = bool(session.stopped)
        session.stopped = 128 + number
        if again or not session.deferring:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup and background jobs of a shell have it
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["cli", "main", "run_cli"]
