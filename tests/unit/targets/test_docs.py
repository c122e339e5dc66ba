"""The documentation's tables of targets are those of the data files."""

import re
from pathlib import Path

import pytest

from targets import FAMILY_FACTS, TargetSpec, list_targets

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs/targets.md"
_TABLE = re.compile(r"(<!-- devices: begin[^\n]*-->\n)(.*?)(<!-- devices: end -->)", re.DOTALL)
_RATES = ("float32", "float16", "bfloat16", "int8")


def row(spec: TargetSpec) -> str:
    caches = ", ".join(f"L{c.level} {c.size_bytes / 1024:g} KiB" for c in spec.caches)
    rates = ", ".join(
        f"{d} {spec.peak_ops_per_cycle[d]:g}" for d in _RATES if d in spec.peak_ops_per_cycle
    )
    cells = [
        f"`{spec.name}`", spec.title, f"{spec.cores}", f"{spec.clock_hz / 1e9:g}", caches or "—",
        f"{spec.memory_bandwidth_bytes_per_s / 1e9:g}", rates,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def table() -> str:
    head = (
        "| device | what it is | cores | GHz | caches | GB/s | peak rates |\n" + "|---" * 7 + "|\n"
    )
    return head + "".join(row(s) for s in list_targets() if s.name != "x86/host")


def test_devices(request: pytest.FixtureRequest) -> None:
    text = DOCS.read_text(encoding="utf-8")
    wanted = _TABLE.sub(lambda m: m[1] + table() + m[3], text)
    if request.config.getoption("--update-golden"):
        DOCS.write_text(wanted, encoding="utf-8")
        text = wanted
    assert text == wanted


@pytest.mark.parametrize("path", [DOCS, ROOT / "README.md"], ids=lambda p: p.name)
def test_families(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for family, facts in FAMILY_FACTS.items():
        (line,) = re.findall(rf"^\| `{family}` \|.*$", text, re.MULTILINE)
        assert facts.status in line
        assert facts.default in line
