"""The README's examples, taken out of it so that CI can run exactly what a reader would.

A block is taken when the line above its fence is ``<!-- ci: run -->`` (a shell or Python block to
run) or ``<!-- ci: save NAME -->`` (a file to write first).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"^<!-- ci: (?P<action>run|save)(?: (?P<name>[\w.-]+))? -->\n"
    r"```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Example:
    """One block: what to do with it, its language, and its text."""

    action: str
    name: str
    language: str
    body: str


def examples(readme: Path) -> Iterator[Example]:
    """The blocks of a Markdown document that are marked for CI, in order.

    Raises:
        ValueError: A mark is not followed by a block, or a ``save`` has no name.
    """
    text = readme.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    if len(found) != text.count("<!-- ci:"):
        raise ValueError(f"{readme}: a '<!-- ci: … -->' mark is damaged or has no block below it")
    for match in found:
        if match["action"] == "save" and not match["name"]:
            raise ValueError(f"{readme}: '<!-- ci: save -->' needs a file name")
        yield Example(match["action"], match["name"] or "", match["language"], match["body"])
