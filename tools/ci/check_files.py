"""Checks every file that git tracks or would track: size, line ends, links between documents.

Run as ``python -m tools.ci.check_files``; exits with 1 and one line a finding.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_SOURCE_LINES = 800
MAX_FILE_BYTES = 2 << 20
SOURCE_SUFFIXES = {".py", ".pyi", ".c", ".cc", ".cpp", ".h", ".sh", ".toml", ".html", ".css", ".js"}
TEXT_SUFFIXES = SOURCE_SUFFIXES | {".md", ".yaml", ".yml", ".txt", ".cfg", ".json"}
_LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
_CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)


def findings(root: Path) -> Iterator[str]:
    """One line for everything that is wrong with the files under `root`."""
    for path in tracked_files(root):
        name = path.relative_to(root)
        data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES:
            yield f"{name}: {len(data)} bytes, more than {MAX_FILE_BYTES}"
        if path.suffix not in TEXT_SUFFIXES:
            continue
        text = data.decode("utf-8")
        lines = text.count("\n")
        if path.suffix in SOURCE_SUFFIXES and lines > MAX_SOURCE_LINES:
            yield f"{name}: {lines} lines, more than {MAX_SOURCE_LINES}: split it"
        if "\r\n" in text:
            yield f"{name}: Windows line ends"
        if text and not text.endswith("\n"):
            yield f"{name}: no newline at the end"
        if _CONFLICT.search(text):
            yield f"{name}: a merge conflict is left in it"
        if path.suffix == ".md":
            yield from (f"{name}: dead link {link}" for link in dead_links(path, text))


def tracked_files(root: Path) -> list[Path]:
    """Files that git tracks or would track, that exist."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    return [p for p in (root / f for f in listed.split("\0") if f) if p.is_file()]


def dead_links(path: Path, text: str) -> list[str]:
    """Relative links of a Markdown document that lead nowhere."""
    links = [link for link in _LINK.findall(text) if "://" not in link and "mailto:" not in link]
    return [link for link in links if not (path.parent / link).exists()]


def main() -> int:
    found = list(findings(Path(__file__).resolve().parents[2]))
    for line in found:
        print(line)
    print(f"file checks: {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
