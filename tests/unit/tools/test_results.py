"""JSON and Markdown of benchmark results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.tools.results import failed, make_result, two_nets
from tools.bench.contenders import OURS
from tools.bench.machine import busy_seconds, slug, this_machine
from tools.bench.markdown import number, range_of, render, table
from tools.bench.results import NetResult
from tools.bench.stats import Spread

GOLDEN = Path(__file__).parent / "golden" / "benchmark.md"


def _tables(page: str) -> dict[str, list[list[str]]]:
    """The first table below each heading, as cells."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|"):
            found.setdefault(heading, []).append([c.strip() for c in line.strip("|").split(" | ")])
    return found


def test_the_page_as_it_was_agreed(golden: Callable[[str, Path], None]) -> None:
    golden(render(two_nets()), GOLDEN)


def test_ratios_and_their_geometric_mean() -> None:
    rows = _tables(render(two_nets()))["Ratio of the peer's time to ours"]
    assert rows[0] == ["network", "PyTorch eager", "ONNX Runtime"]
    assert rows[2] == ["resnet18", "2.00 (1.92–2.08)", "1.20 (1.20–1.20)"]
    assert rows[3] == ["minilm_l6", "0.50 (0.50–0.50)", "—"]
    # 2 and 1/2 cancel; the peer that failed once says over how many networks its mean is.
    assert rows[4] == ["**geometric mean**", "**1.00**", "**1.20** (1 of 2 networks)"]


def test_the_page_says_which_way_the_ratio_goes() -> None:
    page = render(two_nets())
    assert "Above 1: we are faster." in page
    assert "geometric mean 1.00, largest 2.00, over 2 of 2 networks" in page


def test_a_lower_precision_is_said_beside_the_ratios() -> None:
    result = two_nets()
    assert "Not in float32" not in render(result)
    result.nets[0].contenders[2].facts["precision"] = "bf16"
    assert "Not in float32: ONNX Runtime (bf16)." in render(result)


def test_a_failure_is_listed_with_its_error() -> None:
    tables = _tables(render(two_nets()))
    assert tables["Failed"][2:] == [
        ["minilm_l6", "ONNX Runtime", "ONNX export: RuntimeError: no such / operator"]
    ]
    assert tables["Latency in milliseconds (measured)"][3][3] == "failed"


def test_every_table_has_the_same_number_of_cells_in_each_row() -> None:
    for heading, rows in _tables(render(two_nets())).items():
        assert len({len(row) for row in rows}) == 1, heading


def test_only_failures_make_a_page_too() -> None:
    net = NetResult("resnet18", [], 0, [failed(OURS, "no back end"), failed("torch", "no g++")])
    page = render(make_result(net))
    assert "no back end" in page
    assert "The other way round" not in page
    assert json.loads(make_result(net).to_json())["geomean_ratio"] == {}


def test_no_networks_make_no_page() -> None:
    with pytest.raises(ValueError, match="no networks"):
        render(make_result())


def test_json_holds_what_ratios_can_be_taken_from_again() -> None:
    document = json.loads(two_nets().to_json())
    assert document["schema"] == 2
    assert document["ours"] == OURS
    assert document["kind"] == "measured"
    assert document["machine"]["cpu"] == "Example CPU 9000"
    assert document["geomean_ratio"]["torch"] == {"value": pytest.approx(1.0), "nets": 2}
    assert document["geomean_ratio"]["ort"]["nets"] == 1
    ours, torch, _ = document["nets"][0]["contenders"]
    ratios = sorted(a / b for a, b in zip(torch["round_ms"], ours["round_ms"], strict=True))
    assert torch["ratio"]["median"] == ratios[1]
    assert document["nets"][1]["contenders"][2]["error"].startswith("ONNX export")


def test_table_cells_cannot_break_the_table() -> None:
    assert table(["a", "b"], [["x|y", "line\nline"]]) == (
        "| a | b |\n| :-- | --: |\n| x/y | line line |"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.01"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_range_of() -> None:
    assert range_of(Spread(1, 2, 30, 9)) == "2.00 (1.00–30.0)"
    assert range_of(None) == "—"


def test_slug() -> None:
    assert slug("AMD EPYC (Zen 4)") == "amd-epyc-zen-4"
    assert slug("Intel(R) Xeon(R) w9-3495X") == "intel-r-xeon-r-w9-3495x"


def test_busy_seconds_counts_work_and_what_was_stolen_but_not_idle() -> None:
    stat = (
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 20 30 5000 700 4 5 6 50 0\ncpu10 1 0 0 0 0 0 0 0 0 0\n"
    )
    # user 100, nice 20, system 30, irq 4, softirq 5, steal 6, in hundredths of a second
    assert busy_seconds((0,), stat) == pytest.approx(1.65)
    assert busy_seconds((0, 10), stat) == pytest.approx(1.66)


def test_this_machine() -> None:
    machine = this_machine()
    assert machine.cpu
    assert machine.logical_cpus >= 1
    assert machine.python.count(".") == 2
