"""Counts by difference, and what is said of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compiler.estimate.counting import Block
from tools.arm_peers import counts
from tools.arm_peers.counts import CountError, Entry, load, save
from tools.arm_peers.hot import dot_products
from tools.arm_peers.results import Row, read, render, write

MAPS = """\
400000-401000 r-xp 00000000 00:00 1 /usr/bin/python3.11
5000000-5001000 r--p 00000000 00:00 2 /lib/libkernels.so
5001000-5003000 r-xp 00001000 00:00 2 /lib/libkernels.so
"""
#: Stands for the emulator: writes what the plugin would have written, and the maps.
PROGRAM = """\
import sys
number, blocks, maps = int(sys.argv[1]), sys.argv[2], sys.argv[3]
text = f"400010 4 {{7 * number}} 00\\n5001020 3 {{100 + 5 * number}} 0a0b\\n5001030 2 9 0c\\nend\\n"
open(blocks, "w").write(text)
open(maps, "w").write({maps!r})
sys.exit({status})
"""


def emulate(monkeypatch: pytest.MonkeyPatch, status: int) -> list[Entry]:
    monkeypatch.setattr(counts, "counter_plugin", lambda _program: Path("plugin"))
    program = PROGRAM.format(maps=MAPS, status=status)

    def command(number: int, maps: Path) -> list[str]:
        return [str(number), str(maps.with_name("blocks")), str(maps)]

    # Python takes "-plugin" and what follows as arguments of the program, whose own come last.
    program = "import sys; sys.argv = [''] + sys.argv[3:]\n" + program
    return counts.count(command, [sys.executable, "-c", program], {})


def test_one_inference_is_more_less_fewer_without_the_interpreter(monkeypatch):
    (entry,) = emulate(monkeypatch, 0)
    assert entry == Entry("libkernels.so", Block(0x1020, 3, 5, b"\x0a\x0b"))


def test_a_program_that_fails_has_no_counts(monkeypatch):
    with pytest.raises(CountError, match=r"failed in emulation \(3\)"):
        emulate(monkeypatch, 3)


def test_counts_are_kept(tmp_path):
    entries = [Entry("a.so", Block(16, 2, 3, b"\x01\x02")), Entry("b.so", Block(16, 1, 9, b"\xff"))]
    save(entries, tmp_path / "counts.json.gz")
    assert load(tmp_path / "counts.json.gz") == entries


def test_dot_products_of_bytes_are_told_from_other_instructions():
    # sdot by element, sdot and udot by vector, udot by element, fmla by element
    words = [0x4FB4E082, 0x4E949482, 0x2E949482, 0x6FBFE882, 0x4F841862]
    code = b"".join(word.to_bytes(4, "little") for word in words)
    assert dot_products([Entry("a.so", Block(0, 5, 10, code))]) == 40


def test_the_page_has_ratios_to_the_best_peer_and_keeps_other_rows(tmp_path):
    path = tmp_path / "peers.json"
    key = ("resnet18", "float32", "cortex-a72")
    write([Row(*key, "tilewright", 10**8, 3e8, "llvm-mca 19, cortex-a72", "1")], path)
    assert "| — | — |" in path.with_suffix(".md").read_text()
    peers = [Row(*key, "ncnn", 10**8, 2e8, "llvm-mca 19, cortex-a72", "2"),
             Row(*key, "mnn", error="it failed")]  # fmt: skip
    write([*read(path), *peers], path)
    page = path.with_suffix(".md").read_text()
    assert "| ResNet-18 | fp32 | Cortex-A72 | 300.0 | 200.0 | — | — | ncnn | 1.50 |" in page
    assert "MNN, ResNet-18, fp32, Cortex-A72: it failed" in page
    assert render(read(path)) == page
