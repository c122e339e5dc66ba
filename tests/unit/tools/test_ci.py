"""The project's own checks find what they are there to find."""

import subprocess
from pathlib import Path

import grimp
import pytest

from tools.ci import check_cycles
from tools.ci.check_files import MAX_SOURCE_LINES, findings
from tools.ci.readme import examples

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True, timeout=30)
    return tmp_path


def test_a_clean_tree_has_no_findings(checkout: Path) -> None:
    (checkout / "a.py").write_text("x = 1\n" * MAX_SOURCE_LINES)
    (checkout / "a.md").write_text("[code](a.py#L1) [web](https://example.org/x)\n")
    (checkout / ".gitignore").write_text("skip.py\n")
    (checkout / "skip.py").write_text("no newline")
    assert list(findings(checkout)) == []


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("long.py", "x = 1\n" * (MAX_SOURCE_LINES + 1), f"more than {MAX_SOURCE_LINES}"),
        ("big.json", "[" + " " * (3 << 20) + "]\n", "bytes, more than"),
        ("dos.py", "x = 1\r\n", "Windows line ends"),
        ("end.toml", "x = 1", "no newline"),
        ("merge.py", "<<<<<<< HEAD\nx = 1\n", "merge conflict"),
        ("doc.md", "see [there](gone.md)\n", "dead link gone.md"),
    ],
)
def test_finding(checkout: Path, name: str, content: str, says: str) -> None:
    (checkout / name).write_bytes(content.encode())
    (found,) = findings(checkout)
    assert found.startswith(f"{name}: ")
    assert says in found


def test_readme_blocks_are_taken_in_order(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "text\n<!-- ci: save net.py -->\n```python\nx = 1\n```\n"
        "```bash\nnot this\n```\n<!-- ci: run -->\n```bash\nls\n```\n"
    )
    save, run = examples(readme)
    assert (save.action, save.name, save.body) == ("save", "net.py", "x = 1\n")
    assert (run.action, run.language, run.body) == ("run", "bash", "ls\n")


@pytest.mark.parametrize("text", ["<!-- ci: run -->\ntext\n", "<!-- ci: rnu -->\n```sh\nx\n```\n"])
def test_a_damaged_mark_is_no_silence(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match="damaged"):
        list(examples(readme))


def test_a_file_without_a_name(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- ci: save -->\n```python\nx = 1\n```\n")
    with pytest.raises(ValueError, match="needs a file name"):
        list(examples(readme))


def test_our_readme_has_examples_to_run() -> None:
    kinds = {(e.action, e.language) for e in examples(ROOT / "README.md")}
    assert {("run", "bash"), ("run", "python")} <= kinds


def test_cycles_are_named_once_with_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "ring_of_modules"
    package.mkdir()
    (package / "__init__.py").write_text("from ring_of_modules.d import D\n")
    (package / "a.py").write_text("import ring_of_modules.b\n")
    (package / "b.py").write_text("\nfrom . import c\n")
    (package / "c.py").write_text("def f():\n    x = 1\n    from .a import y\n")
    (package / "d.py").write_text("from ring_of_modules import a, version\n")
    (package / "e.py").write_text("from . import a, b, c\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert check_cycles.main(("ring_of_modules",)) == 1
    out = capsys.readouterr().out.replace("ring_of_modules", "r").splitlines()
    assert out == [
        "import cycle: r (line 1) -> r.d (line 1) -> r",
        "import cycle: r.a (line 1) -> r.b (line 2) -> r.c (line 3) -> r.a",
        "import cycles: 2 in 6 modules",
    ]


def test_our_modules_have_no_cycles() -> None:
    assert check_cycles.cycles(grimp.build_graph(*check_cycles.PACKAGES, cache_dir=None)) == []
