"""`python -m tools.mixed_precision`: search for the precisions of a small network."""

from __future__ import annotations

import json
import os
import sys
import time
from html import escape
from pathlib import Path
from typing import Any

import click
import numpy as np

import compiler
from compiler import Quantize, __version__
from compiler.errors import TilewrightError
from targets import cpu_name
from tools.accuracy import fashion
from tools.accuracy import train as training
from tools.accuracy.__main__ import BATCH, CALIBRATION, WEIGHTS
from tools.accuracy.networks import NETWORKS

_WIDTH, _HEIGHT, _MARGIN = 720, 380, 62
_COLOURS = {"chosen": "#ee6677", "inside": "#4477aa", "outside": "#a0a0a0"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--max-drop", type=float, required=True, help="Share of right answers to lose.")
@click.option("--max-evaluations", default=16, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=fashion.INSTALLED)
@click.option("--resume", type=click.Path(path_type=Path), help="Journal of the search.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw accuracy against latency.")
@click.option("--from-json", type=click.Path(path_type=Path), help="Only draw, from --json's file.")
@click.argument("name", type=click.Choice(list(NETWORKS)), default="fashion-mobilenet")
def main(
    max_drop: float,
    max_evaluations: int,
    data: Path,
    resume: Path | None,
    json_path: Path | None,
    svg: Path | None,
    from_json: Path | None,
    name: str,
) -> None:
    """Give each layer of NAME the fastest precision that 10,000 test images allow."""
    if from_json is not None:
        document = json.loads(from_json.read_text(encoding="utf-8"))
    else:
        try:
            document = _search(name, data, Quantize(
                max_drop=max_drop, max_evaluations=max_evaluations, resume=resume
            ))  # fmt: skip
        except TilewrightError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
    if json_path is not None:
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if svg is not None:
        svg.write_text(draw(document), encoding="utf-8")
    for point in document["points"]:
        click.echo(json.dumps(point))


def _search(name: str, data: Path, recipe: Quantize) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    if not any(data.glob("t10k-images*")):
        fashion.fetch(data)
    test, pool = fashion.load(data, "t10k"), fashion.load(data, "train")
    model = training.load(name, WEIGHTS / f"{name}.safetensors")

    def accuracy(run: Any) -> float:
        right = 0
        for start in range(0, len(test.images), BATCH):
            logits = np.asarray(run(test.images[start : start + BATCH]))
            right += int((logits.argmax(axis=1) == test.labels[start : start + BATCH]).sum())
        return right / len(test.images)

    seen = pool.images[BATCH : BATCH + CALIBRATION]
    begin = time.perf_counter()
    bundle = compiler.compile(
        model,
        example_inputs=(pool.images[:BATCH],),
        name=name,
        quantize=recipe,
        calibration=[seen[i : i + BATCH] for i in range(0, len(seen), BATCH)],
        evaluate=accuracy,
        progress=lambda _, step: click.echo(step, err=True) if "evaluation" in step else None,
    )
    report: Any = bundle.report
    found = report.quantization
    return {
        "network": name,
        "batch": BATCH,
        "cpu": cpu_name(),
        "version": __version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load_1min": os.getloadavg()[0],
        "seconds": round(time.perf_counter() - begin, 1),
        "max_drop": found.search.max_drop,
        "before": found.metric_before.value,
        "after": found.metric_after.value,
        "latency_ms": report.latency.median.value,
        "layers": [
            {"name": row.name, "precision": row.precision, "weight": row.weight, "why": row.why}
            for row in found.layers
        ],
        "points": [
            {
                "name": p.name,
                "layers": dict(p.counts),
                "metric": None if p.metric is None else p.metric.value,
                "ms": None if p.latency is None else p.latency.value,
                "label": None if p.latency is None else p.latency.label,
                "inside": p.inside,
                "chosen": p.chosen,
                "note": p.note,
            }
            for p in found.search.points
        ],
    }


def draw(document: dict[str, Any]) -> str:
    """Accuracy against latency as SVG."""
    points = [p for p in document["points"] if p["metric"] is not None]
    least = document["before"] - document["max_drop"]
    times = [p["ms"] for p in points]
    values = [*(p["metric"] for p in points), least, document["before"]]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 1e-3
    low, high, right = low - pad, high + pad, max(times) * 1.08

    def x(ms: float) -> float:
        return _MARGIN + (_WIDTH - _MARGIN - 20) * ms / right

    def y(metric: float) -> float:
        return _HEIGHT - _MARGIN - (_HEIGHT - _MARGIN - 34) * (metric - low) / (high - low)

    title = (
        f"{document['network']}, batch of {document['batch']}, one thread, {document['cpu']}: "
        f"drop of at most {document['max_drop']:g} allowed"
    )
    end, bottom = _WIDTH - 20, _HEIGHT - _MARGIN
    parts = [
        _tag("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
             font_family="sans-serif", font_size=12),
        _tag("rect", "/", width=_WIDTH, height=_HEIGHT, fill="white"),
        _text(_MARGIN, 20, title),
        _tag("line", "/", x1=_MARGIN, x2=end, y1=y(least), y2=y(least), stroke="#888",
             stroke_dasharray="3 4"),
        _text(end - 4, y(least) - 5, "budget", "end"),
        _tag("path", "/", d=f"M{_MARGIN} 34V{bottom}H{end}", fill="none", stroke="#333"),
        _text(_WIDTH / 2, _HEIGHT - 18, f"ms of one inference ({points[0]['label']})", "middle"),
    ]  # fmt: skip
    for i in range(6):
        ms, metric = right * i / 5, low + (high - low) * i / 5
        parts.append(_text(x(ms), bottom + 16, f"{ms:.2g}", "middle"))
        parts.append(_text(_MARGIN - 6, y(metric) + 4, f"{metric:.4f}", "end"))
    for p in points:
        kind = "chosen" if p["chosen"] else "inside" if p["inside"] else "outside"
        size = 7 if p["chosen"] else 5
        dot = _tag("circle", cx=x(p["ms"]), cy=y(p["metric"]), r=size, fill=_COLOURS[kind])
        told = escape(f"{p['name']}: {p['metric']:.4f}, {p['ms']:.3g} ms")
        parts.append(f"{dot}<title>{told}</title></circle>")
        if p["name"].startswith("all ") or p["chosen"]:
            name = "chosen" if p["chosen"] else p["name"]
            parts.append(_text(x(p["ms"]) + 9, y(p["metric"]) + 4, name))
    return "\n".join([*parts, "</svg>", ""])


def _tag(name: str, end: str = "", **attributes: Any) -> str:
    shown = "".join(
        f' {key.replace("_", "-")}="{f"{value:.1f}" if isinstance(value, float) else value}"'
        for key, value in attributes.items()
    )
    return f"<{name}{shown}{end}>"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f"{_tag('text', x=x, y=y, text_anchor=anchor)}{escape(text)}</text>"


if __name__ == "__main__":
    main()
