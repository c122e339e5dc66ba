from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import BundleError, FileError
from compiler.report import SCHEMA_VERSION, Figure, Report, ReportError
from compiler.stages import ReportLike
from tests.unit.report.fakes import make_report

GOLDEN = Path(__file__).parents[2] / "golden"


def every_figure(value: Any) -> list[Figure]:
    if isinstance(value, Figure):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        return [f for field in fields(value) for f in every_figure(getattr(value, field.name))]
    if isinstance(value, dict):
        return [f for item in value.values() for f in every_figure(item)]
    if isinstance(value, tuple | list):
        return [f for item in value for f in every_figure(item)]
    return []


def changed(**edits: Any) -> str:
    return json.dumps({**make_report().to_dict(), **edits})


def test_is_what_a_bundle_needs() -> None:
    assert isinstance(make_report(), ReportLike)


def test_json_round_trip() -> None:
    report = make_report()
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


def test_copies_are_equal_reports() -> None:
    report = make_report()
    for again in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report), replace(report)):  # noqa: S301 - our own bytes
        assert type(again) is Report
        assert again == report
    assert replace(report, model="another") != report


def test_json_begins_with_schema_and_version() -> None:
    data = json.loads(make_report().to_json())
    assert list(data)[:2] == ["schema", "version"]
    assert data["schema"] == "tilewright.report"
    assert data["version"] == SCHEMA_VERSION


def test_every_figure_has_a_label_and_numbers_stand_in_figures_only() -> None:
    report = make_report()
    figures = every_figure(report)
    assert len(figures) > 50
    assert {f.label for f in figures} == {"measured", "estimated"}
    # A float anywhere outside a Figure would be a number without a label.
    stack: list[Any] = [report.to_dict()]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if set(item) == {"value", "unit", "label"}:
                continue
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        else:
            assert not isinstance(item, float)


def test_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match="measured, counted, emulated, simulated, estimated"):
        Figure(1.0, "ms", "guessed")


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_an_error_that_is_no_number_survives_json(error: float) -> None:
    report = make_report()
    assert report.accuracy is not None
    broken = replace(report.accuracy, max_abs=Figure.measured(error, ""))
    again = Report.from_json(replace(report, accuracy=broken).to_json())
    assert again.accuracy is not None
    assert str(again.accuracy.max_abs.value) == str(error)


def test_newer_schema_says_to_update() -> None:
    with pytest.raises(ReportError, match="newer") as caught:
        Report.from_json(changed(version=SCHEMA_VERSION + 1), where="old.json")
    assert "update tilewright" in str(caught.value)
    assert str(caught.value).startswith("old.json:")
    assert isinstance(caught.value, BundleError)


def test_reports_of_the_first_schema_are_read() -> None:
    """A file that a release without tuning wrote."""
    report = Report.read(GOLDEN / "report-v1.json")
    assert [row.source for row in report.kernels] == ["unknown", "unknown", "fallback"]
    assert [row.choice for row in report.kernels] == [None] * 3
    assert [(row.source, row.kernels) for row in report.coverage] == [
        ("fallback", 1), ("unknown", 2), ("overhead", 0),
    ]  # fmt: skip
    assert sum(row.share.value for row in report.coverage) == pytest.approx(100)
    assert sum(row.flops_share.value for row in report.coverage) == pytest.approx(100)
    assert report.latency == make_report().latency
    assert report.precision == "float32"
    assert "not known" in str(report)
    assert json.loads(report.to_json())["version"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    "edits", [{"kernels": 3}, {"kernels": [3]}, {"gap_share": None}, {"kernels": [{"flops": "x"}]}]
)
def test_damaged_reports_of_the_first_schema(edits: dict[str, Any]) -> None:
    document = json.loads((GOLDEN / "report-v1.json").read_text(encoding="utf-8"))
    with pytest.raises(ReportError, match="damaged"):
        Report.from_json(json.dumps({**document, **edits}))


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_impossible_schema_version(version: object) -> None:
    with pytest.raises(ReportError, match="positive integer"):
        Report.from_json(changed(version=version))


@pytest.mark.parametrize("text", ["", "{", "[1, 2", "[" * 100_000, b"\xff\xfe\x00"])
def test_not_json(text: str | bytes) -> None:
    with pytest.raises(ReportError, match="not a JSON document"):
        Report.from_json(text)


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"schema": "something.else", "version": 1}'])
def test_foreign_document(text: str) -> None:
    with pytest.raises(ReportError, match="not a latency report"):
        Report.from_json(text)


@pytest.mark.parametrize(
    ("edits", "at"),
    [
        ({"model": 3}, r"\$\.model: expected str, found int"),
        ({"surprise": 1}, r"unknown field 'surprise'"),
        ({"kernels": {}}, r"\$\.kernels: expected list"),
        ({"kernels": [{}]}, r"\$\.kernels\[0\]: missing field"),
        ({"gap": {"value": "x", "unit": "", "label": "measured"}}, r"\$\.gap\.value"),
        ({"gap": {"value": True, "unit": "", "label": "measured"}}, r"\$\.gap\.value"),
        ({"gap": {"value": 1, "unit": "", "label": "guessed"}}, r"\$\.gap: label must be"),
        ({"gap": {"value": 10**400, "unit": "", "label": "measured"}}, r"number too large"),
        ({"latency": {"runs": True}}, r"\$\.latency: missing field"),
        ({"gap": None}, r"\$\.gap: expected"),
    ],
)
def test_damaged_report_names_the_place(edits: dict[str, Any], at: str) -> None:
    with pytest.raises(ReportError, match=at):
        Report.from_json(changed(**edits))


def test_truth_value_is_no_count() -> None:
    latency = make_report().to_dict()["latency"]
    with pytest.raises(ReportError, match=r"\$\.latency\.runs: expected int, found bool"):
        Report.from_json(changed(latency={**latency, "runs": True}))


def test_read_missing_file(tmp_path: Any) -> None:
    with pytest.raises(FileError, match="cannot read"):
        Report.read(tmp_path / "none.json")


def test_read_file(tmp_path: Any) -> None:
    path = tmp_path / "report.json"
    path.write_text(make_report().to_json(), encoding="utf-8")
    assert Report.read(path) == make_report()
