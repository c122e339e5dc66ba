"""The executor: the same kind of array out as in, shared memory, nothing overwritten."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.errors import BundleError, InputError
from compiler.runtime import Executor
from compiler.runtime.tensors import ALIGNMENT_BYTES, aligned_empty

pytestmark = pytest.mark.compile

WEIGHT = np.arange(24, dtype=np.float32).reshape(8, 3) / 10


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def test_numpy_in_numpy_out(two_outputs: Executor) -> None:
    x = rows(4)
    a, b = two_outputs(x)
    assert isinstance(a, np.ndarray)
    np.testing.assert_allclose(a, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b, 2 * (x @ WEIGHT), rtol=1e-5, atol=1e-6)


def test_torch_in_torch_out(two_outputs: Executor) -> None:
    x = torch.from_numpy(rows(4)).requires_grad_()
    a, _ = two_outputs.run(x=x)
    assert isinstance(a, torch.Tensor)
    torch.testing.assert_close(a, torch.relu(x.detach() @ torch.from_numpy(WEIGHT)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_symbolic_rows(two_outputs: Executor, count: int) -> None:
    assert two_outputs(rows(count))[0].shape == (count, 3)


def misaligned(x: np.ndarray) -> np.ndarray:
    buffer = np.empty(x.nbytes + 2 * ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES + 4
    view = buffer[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "change",
    [
        misaligned,
        read_only,
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x[::-1][::-1],
        lambda x: torch.from_numpy(misaligned(x)),
        lambda x: torch.from_numpy(x.T.copy()).T,
        lambda x: torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2],
        lambda x: torch._neg_view(torch.from_numpy(-x)),
    ],
)
def test_any_layout_gives_the_same_result(two_outputs: Executor, change: object) -> None:
    x = rows(4)
    want = two_outputs(x)[0]
    got = two_outputs(change(x))[0]  # type: ignore[operator]
    np.testing.assert_array_equal(np.asarray(got), want)


def test_the_callers_array_is_read_where_it_lies() -> None:
    from compiler.runtime.tensors import numpy_to_tvm, torch_to_tvm

    array = aligned_empty((4, 8), "float32")
    tensor, shared = numpy_to_tvm(array)
    assert shared
    assert tensor.data_ptr() == array.ctypes.data
    torch_tensor = torch.zeros(4, 8)
    tensor, shared = torch_to_tvm(torch_tensor)
    assert shared
    assert tensor.data_ptr() == torch_tensor.data_ptr()


def test_outputs_are_not_overwritten_by_later_calls(two_outputs: Executor) -> None:
    first = two_outputs(rows(4, seed=1))
    kept = [array.copy() for array in first]
    for seed in range(2, 12):
        two_outputs(rows(4, seed=seed))
    for array, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.writeable


def test_outputs_outlive_the_executor(two_outputs: Executor) -> None:
    import gc

    again = Executor(
        two_outputs.library, two_outputs.inputs, two_outputs.outputs, {"w": WEIGHT}, name="again"
    )
    x = rows(3)
    out = again(x)[0]
    del again
    gc.collect()
    np.testing.assert_allclose(out, np.maximum(x @ WEIGHT, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "aligned", "torch"])
def test_outputs_never_share_memory_with_inputs_or_parameters(echo: Executor, kind: str) -> None:
    x = aligned_empty((2, 4), "float32")
    x[...] = np.arange(8).reshape(2, 4)
    given = {"numpy": np.array(x), "aligned": x, "torch": torch.from_numpy(x.copy())}[kind]
    x_again, flat, double = map(np.asarray, echo(given))
    np.testing.assert_array_equal(x_again, x)
    np.testing.assert_array_equal(double, 2 * x)
    x_again[...] = -1
    flat[...] = -1  # were it the parameter itself, the next call would see it
    assert np.asarray(given).min() == 0
    again = list(map(np.asarray, echo(given)))
    np.testing.assert_array_equal(again[0], x)
    np.testing.assert_array_equal(again[1], WEIGHT.reshape(-1))


def test_wrong_inputs(two_outputs: Executor) -> None:
    for call in (
        lambda: two_outputs(rows(4), rows(4)),
        lambda: two_outputs(),
        lambda: two_outputs(y=rows(4)),
        lambda: two_outputs(rows(4)[:, :7]),
        lambda: two_outputs(rows(4).astype(np.float64)),
        lambda: two_outputs.time([rows(4)[:, :7]], warmup=0, repeat=1),
        lambda: two_outputs.time([rows(4)], warmup=0, repeat=0),
        lambda: two_outputs.time([rows(4)], warmup=-1, repeat=1),
    ):
        with pytest.raises(InputError):
            call()
    two_outputs(rows(4))  # and it still works


def test_time_gives_one_figure_a_run(two_outputs: Executor) -> None:
    seconds = two_outputs.time([rows(4)], warmup=2, repeat=7)
    assert len(seconds) == 7
    assert all(0 < s < 10 for s in seconds)


def test_instrument_sees_the_kernels_only_inside_the_block(two_outputs: Executor) -> None:
    seen: list[tuple[str, bool]] = []
    with two_outputs.instrument(lambda _f, name, before, _r, *_a: seen.append((name, before))):
        two_outputs(rows(4))
    count = len(seen)
    two_outputs(rows(4))
    assert len(seen) == count
    kernels = {name for name, before in seen if before and not name.startswith("vm.builtin")}
    assert kernels == {"shape_func", "matmul", "relu", "add"}
    assert sum(before for _, before in seen) * 2 == count


def test_an_error_in_the_callback_takes_the_instrument_off(two_outputs: Executor) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the callback broke")

    with pytest.raises(RuntimeError, match="the callback broke"), two_outputs.instrument(fail):
        two_outputs(rows(4))
    two_outputs(rows(4))


def test_calls_from_many_threads(two_outputs: Executor) -> None:
    wrong = []

    def work(seed: int) -> None:
        for i in range(20):
            x = rows(1 + i % 3, seed=seed * 100 + i)
            if not np.allclose(two_outputs(x)[1], 2 * (x @ WEIGHT), atol=1e-5):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_missing_or_foreign_library(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no shared object"):
        Executor(tmp_path / "none.so", [], [], {})
    (tmp_path / "text.so").write_text("this is no shared object")
    with pytest.raises(BundleError, match="cannot be loaded"):
        Executor(tmp_path / "text.so", [], [], {})


def test_a_library_that_is_no_model(tmp_path: Path) -> None:
    import subprocess

    source = tmp_path / "empty.c"
    source.write_text("int nothing(void) { return 0; }\n")
    library = tmp_path / "empty.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    with pytest.raises(BundleError, match="cannot be loaded"):
        Executor(library, [], [], {})


def test_repr(two_outputs: Executor) -> None:
    assert repr(two_outputs) == (
        "Executor('two': x: float32[rows, 8] -> a: float32[rows, 3], b: float32[rows, 3]; "
        "threads=1)"
    )
