"""The documentation names every option and error there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from compiler import errors
from compiler.cli.app import cli

DOCS = Path(__file__).parents[3] / "docs"


def parameters(command: click.Command) -> list[click.Parameter]:
    """Of a command, or of all commands of a group."""
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return [*command.params, *(p for c in inner for p in parameters(c))]


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_option_is_documented(name: str) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = text.split(f"## `tilewright {name}")[1].split("\n## ")[0]
    options = {
        option
        for parameter in parameters(cli.commands[name])
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", section))
    assert options - {"--json", "--debug"} <= documented
    assert documented <= options


def test_every_error_is_documented() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in errors.__all__:
        assert f"`{name}`" in text or f"`{name}`s" in text, name
