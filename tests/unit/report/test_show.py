from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import FileError
from compiler.report import units
from compiler.report.html import html_page, notebook_html
from compiler.report.plots import all_plots, kind_colours, roofline
from compiler.report.profile import Profile
from compiler.report.text import to_text
from tests.unit.report.fakes import KERNELS, PROFILE, make_report

GOLDEN = Path(__file__).parents[2] / "golden"
NASTY = "</script><script>alert(1)</script><b>&\"'[red]$title"


def test_text_is_as_it_was(golden: Callable[[str, Path], None]) -> None:
    golden(str(make_report()), GOLDEN / "report.txt")


def test_text_of_a_gap_is_as_it_was(golden: Callable[[str, Path], None]) -> None:
    profile = replace(PROFILE, run_ms=(5.0, 5.2, 5.1))
    golden(make_report(profile=profile).to_text(top=1), GOLDEN / "report-gap.txt")


def test_json_is_as_it_was(golden: Callable[[str, Path], None]) -> None:
    golden(make_report().to_json(), GOLDEN / "report.json")


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    kernels = tuple(
        replace(k, operators=("conv2d", "add", "batch_norm", "add", "hard_swish") * 3)
        for k in KERNELS
    )
    text = make_report(kernels=kernels, name="a-rather-long-name-" * 4).to_text(width=width)
    assert max(map(len, text.splitlines())) <= width


def test_text_shows_names_literally() -> None:
    kernels = (replace(KERNELS[0], operators=("[red]x[/red]",), why="[bold]"), *KERNELS[1:])
    assert "[red]x[/red]" in make_report(kernels=kernels).to_text()


def test_every_way_of_showing_says_where_schedules_come_from() -> None:
    report = make_report()
    for shown in (str(report), html_page(report), notebook_html(report)):
        for part in ("no record", "72.5 %", "kernels that can be tuned"):
            assert part in shown
    for shown in (str(report), html_page(report)):
        assert "tuned record, same CPU" in shown
        assert "default, not tuned" in shown
        assert "0123456789" in shown
        assert "direct: tile 6x16, unroll 4, pack yes" in shown
        assert "no record for this workload" in shown


def test_a_report_without_anything_to_tune_says_nothing_of_it() -> None:
    kernels = tuple(
        replace(k, source="rule", miss="", record="", choice=None, fallback=False) for k in KERNELS
    )
    text = str(make_report(kernels=kernels))
    assert "rule, nothing to tune" in text
    assert "can be tuned" not in text
    assert "no record" not in text


def test_rest_of_the_kernels_is_one_row() -> None:
    text = to_text(make_report(), top=1)
    row = next(line for line in text.splitlines() if "… 2 more" in line)
    assert "1.000" in row  # 0.25 + 0.75 ms
    assert "25.0 %" in row


class _References(HTMLParser):
    """Every attribute that makes a browser fetch something, and the text between the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.scripts = 0
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.scripts += tag == "script"
        fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
        self.references += [value or "" for name, value in attrs if name in fetching]


def without_plotly(page: str) -> str:
    from plotly.offline import get_plotlyjs

    bundle = get_plotlyjs()
    assert bundle in page
    return page.replace(bundle, "")


def test_page_fetches_nothing() -> None:
    page = html_page(make_report())
    parser = _References()
    parser.feed(page)
    assert parser.references == []
    assert parser.scripts == 2
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(parser.tags)
    ours = without_plotly(page)
    assert not re.search(r"https?:|//cdn|@import|url\(", ours)


def test_page_escapes_what_comes_from_a_model() -> None:
    choice = {"algorithm": NASTY, NASTY: NASTY}
    nasty = replace(
        KERNELS[0], operators=(NASTY,), kind=NASTY, why=NASTY, choice=choice, record=NASTY,
        tier=NASTY,
    )  # fmt: skip
    kernels = (nasty, replace(KERNELS[1], miss=NASTY), KERNELS[2])
    profile = replace(PROFILE, call_names=("fused_conv2d_add_relu", NASTY, "cumsum", "fused_dense"))
    report = make_report(name=NASTY, kernels=kernels, profile=profile)
    page = html_page(report)
    parser = _References()
    parser.feed(page)
    assert parser.scripts == 2
    assert "<script>alert" not in page
    assert "<b>&" not in notebook_html(report)
    assert "<script" not in notebook_html(report)


def test_data_in_the_page_is_json() -> None:
    page = without_plotly(html_page(make_report(name=NASTY)))
    text = page.split("const plots = ", 1)[1].split(";\n", 1)[0]
    plots = json.loads(text)
    assert set(plots) == {
        "plot-kernels", "plot-kinds", "plot-roofline", "plot-memory", "plot-compile",
    }  # fmt: skip
    for place in plots:
        assert f'id="{place}"' in page


def test_page_has_every_kernel_and_figure_label() -> None:
    page = without_plotly(html_page(make_report()))
    for row in make_report().kernels:
        assert row.name in page
    assert "VM and gaps" in page
    assert page.count('class="chip measured"') > 5
    assert page.count('class="chip estimated"') > 5


def test_page_of_a_report_without_anything_optional() -> None:
    profile = Profile((0.01, 0.02), 1, (), (), (0.0, 0.0), 0.0, 0, ())
    report = replace(
        make_report(profile=profile, kernels=(), stages=(), planned=0), accuracy=None, sizes={}
    )
    page = without_plotly(html_page(report))
    assert 'id="plot-kinds"' in page
    for absent in ("plot-kernels", "plot-roofline", "plot-memory", "plot-compile"):
        assert f'id="{absent}"' not in page
    assert "None" not in page


def test_roofline_ceiling_passes_through_the_ridge() -> None:
    figure = roofline(make_report())
    ceiling = figure.data[0]
    low, ridge, high = ceiling.x
    assert low < ridge < high
    assert ridge == pytest.approx(64 / 20)
    assert ceiling.y[0] == pytest.approx(low * 20)
    assert list(ceiling.y[1:]) == [64, 64]
    dots = {trace.name: (trace.x[0], trace.y[0]) for trace in figure.data[1:]}
    assert dots["conv2d"] == pytest.approx((6.4e7 / 6e6, 6.4e7 / 2.9e6))


def test_bars_of_two_kernels_with_the_same_operators_stay_apart() -> None:
    kernels = tuple(replace(k, operators=("conv2d",)) for k in KERNELS)
    _, figure = all_plots(make_report(kernels=kernels))[0]
    bars = [label for trace in figure.data for label in trace.y]
    assert len(set(bars)) == 3


def test_colours_do_not_depend_on_the_plot() -> None:
    colours = kind_colours(make_report())
    assert len(set(colours.values())) == len(colours) == 3


def test_html_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    assert make_report().to_html(path) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_html_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        make_report().to_html(tmp_path / "missing" / "report.html")


def test_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FileError, match="No space left"):
        make_report().to_html(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_notebook_fragment_has_no_scripts() -> None:
    fragment = make_report()._repr_html_()
    assert "<script" not in fragment
    assert "VM and gaps" in fragment
    assert "tiny-net" in fragment


def test_notebook_sums_the_kernels_that_it_does_not_show() -> None:
    fragment = notebook_html(make_report(), top=1)
    assert "<td>1.000</td><td>25.0 %</td>" in fragment.split("2 more", 1)[1]
    assert "cumsum" not in fragment


def test_rich_prints_it() -> None:
    import io

    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=100, force_terminal=True, color_system="standard").print(
        make_report()
    )
    assert "\x1b[" in buffer.getvalue()
    assert "tiny-net" in buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.0012, "0.0012"),
        (0.12, "0.120"),
        (1.23, "1.230"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (12345.0, "12345"),
    ],
)
def test_milliseconds(value: float, text: str) -> None:
    assert units.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "step", "text"),
    [
        (0, 1000, "0 B"),
        (999, 1000, "999 B"),
        (1500, 1000, "1.50 kB"),
        (1536, 1024, "1.50 KiB"),
        (-2 * 2**20, 1024, "-2.00 MiB"),
        (3.87e9, 1000, "3.87 GB"),
        (float("inf"), 1000, "inf B"),
    ],
)
def test_scaled(value: float, step: int, text: str) -> None:
    assert units.scaled(value, "B", step=step) == text


@given(st.floats(min_value=0, max_value=1e18))
def test_scaled_stays_near(value: float) -> None:
    prefixes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
    number, unit = units.scaled(value, "B").split(" ")
    assert float(number) * prefixes[unit[:-1]] == pytest.approx(value, rel=6e-3, abs=0.5)
