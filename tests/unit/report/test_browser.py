"""The page in a real browser: it draws its plots, sorts its table and needs no network."""

from __future__ import annotations

import re
import subprocess
from html import unescape
from pathlib import Path

import pytest

from compiler.report.html import html_page
from tests.unit.report.fakes import make_report
from tools.report_screenshot import browser_command

pytestmark = pytest.mark.slow

_CATCH = "<script>window.onerror = (m) => { document.body.dataset.error = m; };</script>"
_PROBE = """<script>
const buttons = [...document.querySelectorAll("table.sortable thead th button")];
const names = () => [...document.querySelectorAll("table.sortable tbody tr")]
  .map((row) => row.cells[0].innerText.split("\\n")[0].split(" ")[0]).join(",");
const orders = [names()];
for (const column of [0, 0, 4, 4, 8]) { buttons[column].click(); orders.push(names()); }
document.body.dataset.orders = orders.join(";");
document.body.dataset.plots = [...document.querySelectorAll(".plot")]
  .filter((place) => place.querySelector(".main-svg")).map((place) => place.id).join(",");
</script></body>"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The data attributes that the probe left on the page's body."""
    folder: Path = tmp_path_factory.mktemp("page")
    command = browser_command(folder / "profile", width=1200, height=900)
    if command is None:
        pytest.skip("no Chromium is installed")
    page = html_page(make_report())
    head, rest = page.split("<script>", 1)
    body, tail = rest.rsplit("</body>", 1)
    path = folder / "page.html"
    path.write_text(f"{head}{_CATCH}<script>{body}{_PROBE}{tail}", encoding="utf-8")
    dump = subprocess.run(
        [*command, "--dump-dom", path.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    body_tag = re.search(r"<body[^>]*>", dump)
    assert body_tag is not None
    return {k: unescape(v) for k, v in re.findall(r'data-(\w+)="([^"]*)"', body_tag.group())}


def test_no_script_fails(probed: dict[str, str]) -> None:
    assert "error" not in probed


def test_every_plot_is_drawn(probed: dict[str, str]) -> None:
    assert set(probed["plots"].split(",")) == {
        "plot-kernels", "plot-kinds", "plot-roofline", "plot-memory", "plot-compile",
    }  # fmt: skip


def test_table_is_sorted_by_the_clicked_column(probed: dict[str, str]) -> None:
    assert probed["orders"].split(";") == [
        "conv2d,matmul,cumsum",  # as it comes: most time first
        "matmul,cumsum,conv2d",  # name, descending
        "conv2d,cumsum,matmul",  # name, ascending
        "conv2d,matmul,cumsum",  # time, descending
        "cumsum,matmul,conv2d",  # time, ascending
        "conv2d,matmul,cumsum",  # GFLOPS, descending; one without comes last
    ]
