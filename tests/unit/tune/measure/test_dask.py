"""Building over a real Dask cluster of processes on loopback."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from compiler.errors import CompileError
from compiler.tune.measure import dask_builder
from compiler.tune.measure.base import Failed, Measured, Rejected
from compiler.tune.measure.create import create_measurer
from compiler.tune.measure.settings import Limits
from targets import get_target
from tests.unit.tune.measure.kernels import MODULE, Task

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.compile

SPEC = get_target("x86")
RIGHT = {"do": "right"}


def start_cluster(workers):
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def clusters():
    """Those that were started, the last one last."""
    started = []
    yield started
    for one in started:
        one.close()


@pytest.fixture
def cluster(clusters):
    """One that runs: the last one, unless a test has closed it."""
    if not clusters or clusters[-1].status is not distributed.Status.running:
        clusters.append(start_cluster(1))
    return clusters[-1]


def make(cluster, **options):
    return create_measurer(
        SPEC, dask=cluster.scheduler_address, kernels=MODULE, limits=Limits(build_s=20.0), **options
    )


def measure(measurer, *choices):
    return measurer.measure(Task(), list(choices), cancel=threading.Event())


def test_what_dask_built_is_measured_here(cluster):
    with closing(make(cluster)) as measurer:
        right, wrong, refuse, crash, again = measure(
            measurer, RIGHT, {"do": "wrong"}, {"do": "refuse"}, {"do": "crash the build"}, RIGHT
        )
        folder = measurer._owned[0].folder
        assert len(list(folder.glob("dask-*"))) == 1  # the reference's
    assert isinstance(right, Measured), right
    assert isinstance(wrong, Rejected)
    assert isinstance(refuse, Failed)
    assert "this choice cannot be built" in refuse.reason
    assert isinstance(crash, Failed)
    assert crash.kind == "crash"
    assert "SIGABRT" in crash.reason
    assert isinstance(again, Measured)


def test_a_worker_with_another_version_is_refused(cluster, monkeypatch):
    ours = dask_builder.worker_versions()
    monkeypatch.setattr(dask_builder, "__version__", "0.0.1")
    with pytest.raises(CompileError, match=r"not tilewright 0\.0\.1") as caught:
        make(cluster)
    assert f"has tilewright {ours['tilewright']}" in str(caught.value)


def test_a_cluster_that_goes_away(cluster):
    """What was not built counts as cancelled, and the next batch raises."""
    with closing(make(cluster)) as measurer:
        (right,) = measure(measurer, RIGHT)
        assert isinstance(right, Measured)
        timer = threading.Timer(1.0, cluster.close)
        timer.start()
        (lost,) = measure(measurer, {"do": "hang the build"})
        timer.join()
        assert isinstance(lost, Failed)
        assert lost.kind == "cancelled"
        with pytest.raises(CompileError, match="has gone"):
            measure(measurer, RIGHT)


def test_no_scheduler(monkeypatch):
    monkeypatch.setattr(dask_builder, "_CONNECT_S", 0.5)
    with pytest.raises(CompileError, match="no Dask scheduler answers"):
        create_measurer(SPEC, dask="tcp://127.0.0.1:1", kernels=MODULE)


def test_no_workers():
    with start_cluster(0) as empty, pytest.raises(CompileError, match="has no workers"):
        make(empty)
