"""Thread counts: what can be had, and that the caller's CPU affinity stays as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from compiler.errors import InputError
from compiler.runtime.threads import available_threads, check_threads, use_threads


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_nonsense_is_refused(threads: object) -> None:
    with pytest.raises(InputError, match="whole number"):
        check_threads(threads)  # type: ignore[arg-type]


def test_more_threads_than_cpus_are_refused() -> None:
    with pytest.raises(InputError, match="this process may use") as caught:
        check_threads(available_threads() + 1)
    assert f"threads={available_threads()}" in str(caught.value)


@pytest.mark.compile
def test_affinity_is_kept_in_every_thread() -> None:
    before = os.sched_getaffinity(0)
    seen = []

    def work() -> None:
        for threads in (1, available_threads(), 1):
            use_threads(threads)
            seen.append(os.sched_getaffinity(0))

    work()
    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert seen == [before] * 6


@pytest.mark.compile
def test_a_mask_set_from_outside_is_respected() -> None:
    """TVM itself would move the process to CPU 0."""
    cpu = max(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{cpu}}})\n"
        "from compiler.runtime.threads import available_threads, use_threads\n"
        "import tvm_ffi\n"
        "assert available_threads() == 1\n"
        "use_threads(1)\n"
        "assert tvm_ffi.get_global_func('runtime.NumThreads')() == 1\n"
        f"assert os.sched_getaffinity(0) == {{{cpu}}}, os.sched_getaffinity(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
