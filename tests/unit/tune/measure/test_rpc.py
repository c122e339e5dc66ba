"""Candidates on devices over TVM's RPC: a real tracker and real devices, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import psutil
import pytest

from compiler.errors import CompileError, InputError
from compiler.tune.measure.base import Failed, Measured, Measurer, Rejected
from compiler.tune.measure.builder import LocalBuilder
from compiler.tune.measure.create import create_measurer
from compiler.tune.measure.pipeline import PipelineMeasurer
from compiler.tune.measure.processes import WorkerServer
from compiler.tune.measure.rpc import RpcRunner
from compiler.tune.measure.settings import Limits
from targets import get_target
from tests.unit.tune.measure.kernels import MODULE, Task

pytestmark = pytest.mark.compile

SPEC = get_target("x86")
RIGHT = {"do": "right"}


@pytest.fixture(scope="module")
def tracker():
    from tvm.rpc.tracker import Tracker

    started = Tracker("127.0.0.1", port=19190, port_end=19290, silent=True)
    yield f"127.0.0.1:{started.port}"
    started.terminate()


class Device:
    """The machine itself, lent as a device."""

    def __init__(self, tracker, key):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compiler.tune.measure.device",
             "--tracker", tracker, "--key", key],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip

    def vanish(self):
        """As when somebody pulls its plug."""
        try:
            process = psutil.Process(self.process.pid)
        except psutil.NoSuchProcess:
            return
        for one in (process, *process.children(recursive=True)):
            one.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def device(tracker):
    started = Device(tracker, "one")
    await_devices(tracker, "one", 1)
    yield "one"
    started.vanish()


def await_devices(tracker, key, number):
    from tvm import rpc

    host, _, port = tracker.partition(":")
    session = rpc.connect_tracker(host, int(port))
    end = time.monotonic() + 60
    while True:
        servers = session.summary()["server_info"]
        if sum(s.get("key") == f"server:{key}" for s in servers) == number:
            return
        assert time.monotonic() < end, "the devices did not come"
        time.sleep(0.1)


def make(tracker, key, *, limits=None, acquire_s=5.0, margin_s=10.0):
    limits = limits or Limits(run_s=5.0)
    server = WorkerServer(MODULE)
    try:
        runner = RpcRunner(
            server, SPEC, tracker=tracker, key=key, limits=limits, acquire_s=acquire_s,
            margin_s=margin_s,
        )  # fmt: skip
    except BaseException:
        server.close()
        raise
    return PipelineMeasurer(LocalBuilder(server, SPEC), runner, server)


def measure(measurer, *choices, task=None):
    return measurer.measure(task or Task(), list(choices), cancel=threading.Event())


@pytest.fixture(scope="module")
def measurer(tracker, device):
    with closing(make(tracker, device)) as found:
        yield found


def test_candidates_are_checked_and_timed(measurer):
    right, packed, wrong, refuse = measure(
        measurer, RIGHT, {"do": "right", "packed": True}, {"do": "wrong"}, {"do": "refuse"}
    )
    for outcome in (right, packed):
        assert isinstance(outcome, Measured), outcome
        assert len(outcome.samples_ns) >= 5
        assert all(sample > 0 for sample in outcome.samples_ns)
    assert isinstance(wrong, Rejected)
    assert "off by" in wrong.reason
    assert isinstance(refuse, Failed)


def test_the_device_tells_its_processor(measurer):
    from schedules.records import Cpu

    assert isinstance(measurer, Measurer)
    assert measurer.runner == "rpc:one"
    assert measurer.cpu.name == Cpu.here().name
    assert measurer.cpu.features == Cpu.here().features


@pytest.mark.parametrize("dtype", [pytest.param("uint8", marks=pytest.mark.slow), "bfloat16"])
def test_dtypes(measurer, dtype):
    right, wrong = measure(measurer, RIGHT, {"do": "wrong"}, task=Task(dtype=dtype))
    assert isinstance(right, Measured), right
    assert isinstance(wrong, Rejected), wrong


def test_a_crash_costs_itself_and_not_the_device(measurer):
    crash, right = measure(measurer, {"do": "segfault"}, RIGHT)
    assert isinstance(crash, Failed)
    assert crash.kind == "crash"
    assert isinstance(right, Measured), right


def test_a_candidate_that_never_ends(tracker, device):
    limits = Limits(run_s=1.0)
    with closing(make(tracker, device, limits=limits, margin_s=2.0, acquire_s=20.0)) as measurer:
        endless, right = measure(measurer, {"do": "endless"}, RIGHT)
    assert isinstance(endless, Failed)
    assert endless.kind == "timeout"
    assert isinstance(right, Measured), right


@pytest.mark.slow
def test_devices_that_drop_out(tracker):
    """With one device gone the other does all the work; with both gone it is said."""
    devices = [Device(tracker, "two") for _ in range(2)]
    try:
        await_devices(tracker, "two", 2)
        with closing(make(tracker, "two", acquire_s=2.0)) as measurer:
            assert measurer._runner.devices == 2
            timer = threading.Timer(0.5, devices[0].vanish)
            timer.start()
            outcomes = measure(measurer, *[RIGHT] * 12)
            timer.join()
            assert all(isinstance(o, Measured) for o in outcomes), outcomes
            devices[1].vanish()
            outcomes = measure(measurer, RIGHT, RIGHT)
            assert [o.kind for o in outcomes] == ["cancelled"] * 2
            with pytest.raises(CompileError, match=r"no device two at .* answers any more"):
                measure(measurer, RIGHT)
    finally:
        for one in devices:
            one.vanish()


def test_no_tracker():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(CompileError, match=f"no RPC tracker answers at {address}"):
            create_measurer(SPEC, tracker=address, device="one", kernels=MODULE)


def test_no_such_device(tracker):
    with pytest.raises(CompileError, match="no device nothing at"):
        create_measurer(SPEC, tracker=tracker, device="nothing", kernels=MODULE)


def test_a_tracker_needs_a_key():
    with pytest.raises(InputError, match="go together"):
        create_measurer(SPEC, tracker="127.0.0.1:9190", kernels=MODULE)
