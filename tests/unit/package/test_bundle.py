"""The bundle object: its self-test, and what it says of itself. The code is played by a fake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from compiler.errors import InputError, VerificationError
from compiler.package import Bundle, GoldenPair
from compiler.package.bundle import compare_arrays
from compiler.runtime.threads import available_threads
from compiler.stages import TensorSpec


class FakeExecutor:
    def __init__(self, *outputs: np.ndarray) -> None:
        self._outputs = outputs

    def run(self, *inputs: np.ndarray) -> object:
        return self._outputs if len(self._outputs) > 1 else self._outputs[0]


def play(bundle: Bundle, *outputs: np.ndarray) -> Bundle:
    bundle._executor = FakeExecutor(*outputs)  # type: ignore[assignment]
    return bundle


def test_verify_gives_the_error(bundle: Bundle) -> None:
    golden = bundle.golden.outputs[0]
    scale = np.abs(golden).max()
    off = golden.copy()
    off[1, 1] += np.float32(5e-6) * scale
    result = play(bundle, off).verify()
    assert result.max_rel_error == pytest.approx(5e-6, rel=0.05)
    assert result.max_abs_error == pytest.approx(5e-6 * scale, rel=0.05)
    assert (result.tolerance, result.outputs) == (1e-5, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y + 1e-4 * np.abs(y).max(),
        lambda y: np.where(np.arange(2) == 0, np.nan, y).astype(np.float32),
        lambda y: np.full_like(y, np.inf),
        lambda y: np.zeros_like(y),
        lambda y: y[:2],
        lambda y: y.astype(np.float64),
    ],
)
def test_verify_fails(bundle: Bundle, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(VerificationError) as caught:
        play(bundle, change(bundle.golden.outputs[0])).verify()
    assert "output 'y'" in str(caught.value)
    assert caught.value.exit_code == 8


def test_integers_must_be_equal(make: Callable[..., Bundle]) -> None:
    bundle = make(outputs=(TensorSpec("y", ("batch",), "int64"),))
    want = np.array([2**60, 2**60 + 1])
    bundle._golden = GoldenPair(bundle.golden.inputs, (want,))
    assert play(bundle, want.copy()).verify().max_abs_error == 0
    with pytest.raises(VerificationError, match="0 is allowed"):
        play(bundle, want + np.array([0, 1])).verify()  # float64 cannot tell these apart


def test_compare_arrays() -> None:
    nan, inf = np.nan, np.inf
    a = np.array([1.0, nan, inf, -inf])
    assert compare_arrays(a, a.copy()) == (0.0, 0.0)
    assert compare_arrays(np.array([1.0, 1.0]), np.array([1.0, nan])) == (inf, inf)
    assert compare_arrays(np.array([1.0]), np.array([0.0])) == (1.0, inf)
    assert compare_arrays(np.array([4.5, 1.0]), np.array([4.0, 1.0])) == (0.5, 0.125)
    assert compare_arrays(np.empty((0, 3)), np.empty((0, 3))) == (0.0, 0.0)
    assert compare_arrays(np.array([True, False]), np.array([True, True])) == (1.0, 1.0)


def test_a_wrong_call_is_refused_before_the_code_is_loaded(bundle: Bundle) -> None:
    """The fixture's code is no code at all: loading it would fail in another way."""
    with pytest.raises(InputError, match="float64"):
        bundle(np.zeros((3, 4)))
    with pytest.raises(InputError, match="2 inputs given"):
        bundle(1, 2)
    with pytest.raises(InputError, match="no input is named"):
        bundle(z=np.zeros((3, 4), np.float32))


def test_repr(bundle: Bundle) -> None:
    assert repr(bundle) == (
        "Bundle('tiny': x: float32[batch, 4] -> y: float32[batch, 2]; target x86/generic-avx2; "
        "1 kernels, 0.0 kB of parameters, 0.1 kB of code)"
    )


def test_threads(make: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> None:
    from compiler.package import read_bundle

    many = available_threads() + 1
    bundle = make()
    bundle.manifest = replace(bundle.manifest, threads=many)
    path = bundle.save(tmp_path_factory.mktemp("threads") / "net.tw")
    with pytest.raises(InputError, match=f"{many} threads asked for"):
        read_bundle(path)
    assert read_bundle(path, threads=1).threads == 1
