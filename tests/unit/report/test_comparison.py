"""One model on several targets: ratios, labels, failures, and what the page and the JSON say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.package.bundle import PARAMETERS_IN_MEMORY
from compiler.report.comparison import ComparedTarget, Comparison
from compiler.report.figure import Figure
from tests.unit.report.fakes import make_estimated, make_report

GOLDEN = Path(__file__).parents[2] / "golden"
ROWS = (
    ComparedTarget("arm/nothing", "", None, None, 0.0, "there is no <target>", 3),
    ComparedTarget("arm/test-core", "A core", make_estimated(), 9_000_000, 12.5),
    ComparedTarget("x86", "This machine", make_report(), 9_100_000, 6.0),
)


def test_the_table_is_as_it_was(golden: Callable[[str, Path], None]) -> None:
    golden(Comparison("tiny-net", ROWS).to_text(), GOLDEN / "comparison.txt")


def test_ratios_are_to_the_first_that_works_and_as_weak_as_both() -> None:
    found = Comparison("tiny-net", ROWS)
    ratios = [found.ratio(row) for row in ROWS]
    assert ratios[0] is None
    assert (ratios[1] and ratios[1].value) == 1
    assert ratios[2] is not None
    assert (ratios[2].value, ratios[2].label) == (pytest.approx(4.0 / 2.4), "estimated")
    measured = Comparison("tiny-net", ROWS[2:])
    itself = measured.ratio(ROWS[2])
    assert itself is not None
    assert itself.label == "measured"


def test_a_failure_is_told_and_gives_its_exit_code() -> None:
    found = Comparison("tiny-net", ROWS)
    assert found.exit_code == 3
    assert Comparison("tiny-net", ROWS[1:]).exit_code == 0
    assert "arm/nothing: there is no <target>" in found.to_text()
    assert Comparison("tiny-net", ROWS[:1]).to_dict()["targets"][0]["latency"] is None


def test_packed_parameters_are_what_is_in_memory() -> None:
    row = ROWS[1]
    assert row.report is not None
    assert row.memory is not None
    plain = row.report.sizes["parameters"].value
    packed = {**row.report.sizes, PARAMETERS_IN_MEMORY: Figure.estimated(5 * plain, "B")}
    found = replace(row, report=replace(row.report, sizes=packed)).memory
    assert found is not None
    assert found.value == pytest.approx(row.memory.value + 4 * plain)


def test_the_json_labels_every_figure() -> None:
    document = json.loads(Comparison("tiny-net", ROWS).to_json())
    row = document["targets"][1]
    assert row["latency"] == {"value": 2.4, "unit": "ms", "label": "estimated"}
    assert row["instructions"]["label"] == "counted"
    assert document["targets"][2]["latency"]["label"] == "measured"
    assert document["targets"][0]["error"] == "there is no <target>"


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_the_page_escapes_and_shows_every_target(rows: tuple[ComparedTarget, ...]) -> None:
    page = Comparison("<net>", rows).html_page()
    assert "&lt;net&gt;" in page
    assert "there is no &lt;target&gt;" in page
    for row in rows:
        assert row.target in page
