"""Options of a tuning run: short forms, limits, and what is refused."""

from typing import Any

import pytest

from compiler.tune import Tune, TuneOptionError


@pytest.mark.parametrize(
    ("text", "trials", "minutes"),
    [
        ("30m", None, 30.0),
        ("1h30m", None, 90.0),
        ("90s", None, 1.5),
        ("0.5h", None, 30.0),
        ("10 min", None, 10.0),
        ("2000", 2000, None),
        ("30m,2000", 2000, 30.0),
        ("2000, 30M", 2000, 30.0),
    ],
)
def test_short_forms(text: str, trials: int | None, minutes: float | None) -> None:
    options = Tune.parse(text)
    assert options is not None
    assert (options.trials, options.minutes) == (trials, minutes)


def test_truth_values_and_options() -> None:
    assert Tune.parse(False) is None
    assert Tune.parse(None) is None
    assert Tune.parse(True) == Tune()
    options = Tune(minutes=3, records="./records")
    assert Tune.parse(options) is options


@pytest.mark.parametrize("text", ["", "soon", "30", "30m,40m", "10,20", "-5m", "m", "30m;20", "0m"])
def test_other_texts_are_refused(text: str) -> None:
    if text == "30":
        assert Tune.parse(text) == Tune(trials=30)
        return
    with pytest.raises(TuneOptionError):
        Tune.parse(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("trials", 0),
        ("trials", 1.5),
        ("trials", True),
        ("trials", 10**9),
        ("minutes", 0),
        ("minutes", float("nan")),
        ("minutes", "5"),
        ("minutes", False),
        ("seed", -1),
        ("batch", 0),
        ("workers", 0),
        ("resume", 1),
        ("records", ""),
        ("records", 5),
        ("tasks", " "),
        ("tracker", "host:9190"),
        ("device", 5),
        ("dask", 5),
    ],
)
def test_values_without_sense_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(TuneOptionError, match=option) as caught:
        Tune(**{option: value})
    assert caught.value.exit_code == 2


def test_a_run_needs_a_limit() -> None:
    with pytest.raises(TuneOptionError, match="neither trials nor minutes"):
        Tune(trials=None)
    with pytest.raises(TuneOptionError, match="address"):
        Tune(tracker="somewhere", device="rpi5")
    assert Tune(tracker="127.0.0.1:9190", device="rpi5").device == "rpi5"


def test_tasks_are_selected_by_operator_name_or_workload() -> None:
    def selects(pattern: str | None) -> bool:
        options = Tune(tasks=pattern)
        return options.selects("conv2d", "fused_conv2d_add", "conv2d 1x56x56x64 float32 + relu")

    assert selects(None)
    assert selects("conv2d")
    assert selects("CONV*")
    assert selects("dense, fused_*_add")
    assert selects("*56x56*")
    assert not selects("dense")
    assert not selects("conv")


def test_text_of_options() -> None:
    assert str(Tune(minutes=5.0, seed=3)) == "Tune(minutes=5.0, seed=3)"
