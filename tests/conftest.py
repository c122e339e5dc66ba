"""What all tests share: golden files with an update flag."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA_HOME = Path(tempfile.gettempdir()) / f"tilewright-tests-{os.getpid()}"


def pytest_configure() -> None:
    # A shell starts background jobs with SIGINT ignored, and Python and its children keep it
    # so; the tests of Ctrl-C need what a terminal gives.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What is compiled must not depend on the tuning records of whoever runs the tests, nor must
    # a test add to them.
    os.environ["XDG_DATA_HOME"] = str(DATA_HOME)


_filled: list[bool] = []


def _fill_operators_once_a_test(torch: Any) -> None:
    """PyTorch lists its operators fifty times a model, for each of their namespaces twice.

    That takes a fifth of the time of importing and compiling a small one. The list is the same
    each time, unless somebody registers an operator meanwhile, as no test does after its start.
    """
    utils = importlib.import_module("torch._export.utils")
    fill = utils._materialize_cpp_cia_ops

    def once() -> None:
        if not _filled:
            fill()
            _filled.append(True)

    utils._materialize_cpp_cia_ops = once


def pytest_runtest_setup() -> None:
    _filled.clear()


def pytest_collection_finish() -> None:
    # As many processes run tests as there are processors, and those in which PyTorch waits for its
    # threads take as much time as those in which it computes. Tests that do without it stay so.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        _fill_operators_once_a_test(sys.modules["torch"])


def pytest_unconfigure() -> None:
    shutil.rmtree(DATA_HOME, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write golden files anew from what the code gives now; then look at the difference",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Path], None]:
    """Compares a text with a golden file: ``golden(text, path)``.

    With ``--update-golden`` the file is written instead. A missing file fails, so that a
    golden test cannot pass without one.
    """
    update = bool(request.config.getoption("--update-golden"))

    def compare(text: str, path: Path) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        if not path.is_file():
            pytest.fail(f"{path} is missing; run pytest --update-golden to write it")
        assert text == path.read_text(encoding="utf-8"), f"differs from {path}"

    return compare
