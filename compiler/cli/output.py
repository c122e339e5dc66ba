"""What the command line shows: tables and progress for people, one JSON document for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console


#: Columns of wide tables where the output is no terminal.
WIDE = 160


def _nothing() -> None:
    """Where there is nothing to stop or start."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The line that shows the step at work.

    Attributes:
        show: Called with a stage and a step.
        stop: Take the line off the terminal, so that something else can be drawn.
        start: Draw it again.
    """

    show: Callable[[str, str], None]
    stop: Callable[[], None] = _nothing
    start: Callable[[], None] = _nothing

    def __call__(self, stage: str, name: str) -> None:
        """A step begins."""
        self.show(stage, name)


@dataclass(slots=True)
class Session:
    """One run of the command line.

    Attributes:
        debug: Whether errors come with their traceback.
        json: Whether standard output gets one JSON document and nothing else.
        stopped: Exit code to end with since a signal asked for it, 0 if none did.
        deferring: Whether a signal is only noted for now.
        kept: What to say after an interrupt, if something was kept.
    """

    debug: bool = False
    json: bool = False
    stopped: int = 0
    deferring: bool = False
    kept: str = ""
    _done: bool = field(default=False, repr=False)

    def document(self, content: Any) -> None:
        """Write the one JSON document to standard output."""
        if self._done:
            raise RuntimeError("a JSON document was written already")
        self._done = True
        click.echo(json.dumps(content, indent=2, allow_nan=False, default=str))

    def show(self, *things: Any, wide: bool = False) -> None:
        """Show something to people, on standard output; `wide` where it is no terminal."""
        screen = console(stderr=False)
        if wide and not screen.is_terminal:
            screen.width = WIDE
        screen.print(*things)

    def message(self, text: str) -> None:
        """A remark, on standard error."""
        click.echo(text, err=True)

    def error(self, text: str) -> None:
        """An error, on standard error."""
        head = click.style("error:", fg="red", bold=True)
        click.echo(f"{head} {text}", err=True)

    def check(self) -> None:
        """Stop here if a signal asked for it and its exception was lost on the way.

        Raises:
            KeyboardInterrupt: One did.
        """
        if self.stopped:
            raise KeyboardInterrupt

    def import_heavy(self, *modules: str) -> None:
        """Import modules that take seconds, with a signal's exception put off until then.

        Raised in the middle of the initialization of a C++ library it would abort the process.
        """
        self.deferring = True
        try:
            for module in modules:
                import_module(module)
        finally:
            self.deferring = False
        self.check()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep what others print, a model's file for one, out of the JSON document."""
        if not self.json:
            yield
            return
        with redirect_stdout(sys.stderr):
            yield

    @contextmanager
    def progress(self) -> Iterator[Steps]:
        """A line that shows the stage and step at work, on a terminal only.

        Yields:
            To be called with a stage and a step as it begins.
        """
        screen = console(stderr=True)
        if self.json or not screen.is_terminal:
            yield Steps(lambda _stage, _name: self.check())
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def step(stage: str, name: str) -> None:
                self.check()
                bar.update(task, description=f"[bold]{stage}[/bold]  {name}")

            yield Steps(step, bar.stop, bar.start)


def console(*, stderr: bool) -> Console:
    """A rich console; wide enough for tables when the output is no terminal."""
    from rich.console import Console

    # Without markup: a shape such as [batch, 3] is text, not a style.
    screen = Console(stderr=stderr, highlight=False, markup=False)
    if not screen.is_terminal:
        screen.width = 120
    return screen


def with_common_options(command: Any) -> Any:
    """The options that every subcommand has: ``--json`` and ``--debug``."""

    def set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.json = True

    def set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.obj.debug = True

    command = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=set_json,
        help="Print one JSON document to standard output, and nothing else.",
    )(command)
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=set_debug,
        help="Show the traceback of an error.",
    )(command)


def size_text(count: int) -> str:
    """Bytes for people."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


__all__ = ["Session", "console", "size_text", "with_common_options"]
