"""Deployments: the folder, the runner in it, boards over SSH, and the user's devices."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import compiler
from compiler.cli.app import run_cli
from compiler.deploy import Board, deploy_to_board, write_deployment
from compiler.deploy.board import Facts, check_board, time_on_board
from compiler.deploy.devices import add_device, devices_file, find_device, read_devices
from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import build_runner
from compiler.errors import DeployError, DeviceError, FileError, InputError
from compiler.package import Bundle

pytestmark = pytest.mark.compile


class Two(torch.nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(
        self, image: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.convolution(image).relu() + shift
        return hidden.mean((2, 3)), hidden.amax((2, 3))


@pytest.fixture(scope="module", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 8, 8), torch.randn(1, 8, 1, 1))
    return compiler.compile(
        Two(), "x86/generic-avx2", example_inputs=inputs, measure=False, name="two"
    )


@pytest.fixture(scope="module")
def deployment(bundle: Bundle, _folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deployment(bundle, tmp_path_factory.mktemp("d") / "two").path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "run"), *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_runner_gives_the_bundles_outputs(bundle: Bundle, deployment: Path, tmp_path: Path):
    rng = np.random.default_rng(1)
    image = rng.standard_normal((1, 3, 8, 8), np.float32)
    shift = rng.standard_normal((1, 8, 1, 1), np.float32)
    np.save(tmp_path / "a.npy", image)
    np.save(tmp_path / "b.npy", shift)
    words = ["--input", str(tmp_path / "a.npy"), "--input", str(tmp_path / "b.npy")]
    done = run(deployment, str(deployment), *words, "--output", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    for i, wanted in enumerate(bundle(image, shift)):
        np.testing.assert_array_equal(np.load(tmp_path / f"out{i}.npy"), wanted)


def test_the_self_test_and_the_clock(deployment: Path):
    done = run(deployment, str(deployment), "--selftest", "--bench", "5", "--warmup", "1", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["selftest"]["passed"]
    assert result["selftest"]["same_bits"]
    assert result["runs"] == 5
    assert 0 < result["min_ms"] <= result["median_ms"] <= result["p90_ms"]
    assert "self-test passed" in run(deployment, str(deployment), "--selftest").stdout


def test_a_self_test_that_fails_says_so(deployment: Path, tmp_path: Path):
    copy = Path(shutil.copytree(deployment, tmp_path / "copy"))
    golden = np.load(copy / "golden/output0.npy")
    np.save(copy / "golden/output0.npy", golden + 1)
    done = run(copy, str(copy), "--selftest", "--json")
    assert done.returncode == 5
    assert not json.loads(done.stdout)["selftest"]["passed"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "no folder"),
        (["FOLDER", "--bench", "none"], 2, "needs a number"),
        (["FOLDER", "--what"], 2, "unknown option"),
        (["FOLDER", "--input", "x.npy"], 2, "2, and 1 were given"),
        (["nowhere"], 4, "No such file"),
        (["FOLDER", "--input", "FOLDER/model.json", "--input", "FOLDER/run"], 4, "no .npy file"),
        (["FOLDER", "--output", "nowhere/out"], 4, "cannot be written"),
        (["--rpc", "70000"], 4, "no IPv4 address"),
    ],
)
def test_the_runners_errors(deployment: Path, words: list[str], code: int, says: str):
    done = run(deployment, *(word.replace("FOLDER", str(deployment)) for word in words))
    assert done.returncode == code
    assert says in done.stderr


def test_inputs_that_do_not_fit(deployment: Path, tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 9, 8), np.float32))
    words = ["--input", str(tmp_path / "a.npy"), "--input", str(tmp_path / "a.npy")]
    done = run(deployment, str(deployment), *words)
    assert done.returncode == 4
    assert "input image is float32[1, 3, 9, 8], and the model takes" in done.stderr


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("model.txt", lambda data: b"tilewright deploy/9\n", "another release"),
        ("model.txt", lambda data: b"", "is empty"),
        ("model.txt", lambda data: b"garbage\n", "damaged"),
        ("parameters.bin", lambda data: data[: len(data) // 2], "truncated"),
        ("module.so", lambda data: data[:1000], "truncated"),
    ],
)
def test_damaged_deployments(deployment: Path, tmp_path: Path, file: str, change, says: str):
    copy = Path(shutil.copytree(deployment, tmp_path / "copy"))
    (copy / file).write_bytes(change((copy / file).read_bytes()))
    done = run(copy, str(copy))
    assert done.returncode == 4
    assert says in done.stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_example(deployment: Path, bundle: Bundle, tmp_path: Path):
    command = [
        "cc", str(deployment / "c/example.c"), f"-I{deployment / 'c'}", f"-L{deployment / 'lib'}",
        "-ltilewright", f"-Wl,-rpath,{deployment / 'lib'}", "-o", str(tmp_path / "example"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run(
        [str(tmp_path / "example"), str(deployment)], capture_output=True, text=True, check=True
    )
    zeros = (np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 8, 1, 1), np.float32))
    wanted = bundle(*zeros)[0].reshape(-1)[:4]
    found = [float(word) for word in done.stdout.partition(":")[2].split()]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_the_runner_is_small(deployment: Path):
    files = (deployment / "run", deployment / "lib/libtilewright.so")
    assert sum(file.stat().st_size for file in files) < 200_000


@pytest.mark.slow
def test_the_runner_is_reproducible(monkeypatch, tmp_path: Path):
    machine = os.uname().machine
    libraries = runtime_libraries(machine)
    first = build_runner(machine, libraries)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    second = build_runner(machine, libraries)
    assert first != second
    for name in ("run", "libtilewright.so"):
        a, b = (first / name).read_bytes(), (second / name).read_bytes()
        assert hashlib.sha256(a).hexdigest() == hashlib.sha256(b).hexdigest()


def test_tvm_measures_over_the_runners_rpc(deployment: Path, bundle: Bundle, tmp_path: Path):
    from schedules.tvm_adapter import tvm

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [str(deployment / "run"), "--rpc", str(port)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
        # Somebody who is no client of TVM's is not served, and keeps nobody waiting.
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        remote = tvm.rpc.connect("127.0.0.1", port)
        library = tmp_path / "module.so"
        library.write_bytes(bundle.library)
        remote.upload(str(library), "../../outside.so")
        assert not (tmp_path.parent / "outside.so").exists()
        assert remote.download("outside.so") == bundle.library
        module = remote.load_module("outside.so")
        assert module["vm_load_executable"] is not None
        del module, remote
        for _ in range(100):
            if not list(tmp_path.glob("tilewright-rpc-*")):
                break
            time.sleep(0.05)
        assert not list(tmp_path.glob("tilewright-rpc-*"))
    finally:
        server.kill()
        server.wait()


def test_a_folder_that_is_no_deployment_is_kept(bundle: Bundle, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileError):
        write_deployment(bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_machines_without_a_runtime_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "cache")
    )  # what was fetched before is there
    with pytest.raises(DeployError, match="not published for riscv64"):
        runtime_libraries("riscv64")
    with pytest.raises(DeployError, match="no package of apache-tvm"):
        runtime_libraries("aarch64", tmp_path)


FAKE_SSH = """#!/bin/sh
# A board on this machine: its home is $BOARD_HOME.
while [ "$1" = "-o" ]; do shift 2; done
case "$1" in
  *unreachable) echo "ssh: connect to host $1 port 22: No route to host" >&2; exit 255 ;;
  *stranger) echo "$1: Permission denied (publickey)." >&2; exit 255 ;;
esac
cd "$BOARD_HOME" && exec sh -c "$2"
"""


@pytest.fixture
def board(monkeypatch, tmp_path: Path) -> Path:
    """The home folder of a board that ssh reaches."""
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    (programs / "ssh").write_text(FAKE_SSH)
    (programs / "ssh").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("BOARD_HOME", str(home))
    return home


def test_a_model_on_a_board(deployment: Path, board: Path):
    result = deploy_to_board(deployment, Board.parse("pi@board"))
    assert result["passed"]
    assert result["same_bits"]
    assert (board / "tilewright/two/run").stat().st_mode & stat.S_IXUSR
    assert not (board / "tilewright/two.new").exists()
    timing = time_on_board(Board("pi@board"), "two", repeat=3, warmup=0)
    assert timing["runs"] == 3
    deploy_to_board(deployment, Board.parse("pi@board"))


def test_a_failing_self_test_keeps_what_was_there(deployment: Path, board: Path, tmp_path: Path):
    deploy_to_board(deployment, Board("pi@board"))
    bad = Path(shutil.copytree(deployment, tmp_path / "bad"))
    np.save(bad / "golden/output0.npy", np.load(bad / "golden/output0.npy") + 1)
    before = (board / "tilewright/two/golden/output0.npy").read_bytes()
    with pytest.raises(DeviceError, match="self-test failed"):
        deploy_to_board(bad, Board("pi@board"))
    assert (board / "tilewright/two/golden/output0.npy").read_bytes() == before


def test_boards_that_do_not_answer(board: Path):
    with pytest.raises(DeviceError, match="cannot be reached"):
        Board("pi@unreachable").probe()
    with pytest.raises(DeviceError, match="refuses the connection") as caught:
        Board("pi@stranger").probe()
    assert "ssh-copy-id" in str(caught.value)
    with pytest.raises(DeployError, match="no address"):
        Board.parse("-oProxyCommand=evil")


def facts(**changes: object) -> Facts:
    values = {
        "machine": "aarch64", "kernel": "6.6", "model": "Raspberry Pi 4", "cores": 4,
        "memory_bytes": 1 << 32, "free_bytes": 1 << 32, "clock_hz": 1.5e9,
        "governor": "ondemand", "features": frozenset({"fp", "asimd", "crc32"}), **changes,
    }  # fmt: skip
    return Facts(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"machine": "armv7l"}, "it is a armv7l"),
        ({"features": frozenset({"fp"})}, "lacks crc, neon"),
        ({"free_bytes": 1000}, "of space"),
        ({"memory_bytes": 1000}, "of memory"),
    ],
)
def test_boards_that_will_not_do(changes: dict[str, object], says: str):
    wanted = {
        "machine": "aarch64", "target": "arm/rpi4",
        "required_features": ["neon", "crc", "fp-armv8"],
    }  # fmt: skip
    check_board(facts(), wanted, 1 << 20, "pi@board")
    with pytest.raises(DeviceError, match=says):
        check_board(facts(**changes), wanted, 1 << 20, "pi@board")


def test_devices_by_name(board: Path, capsys: pytest.CaptureFixture[str]):
    assert run_cli(["devices", "list"]) == 0
    assert "no devices" in capsys.readouterr().out
    assert run_cli(["devices", "add", "mine", "pi@board:models", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert added["facts"]["machine"] == os.uname().machine
    assert find_device("mine") == Board("pi@board", "models")
    assert run_cli(["devices", "probe", "mine"]) == 0
    assert "cores" in capsys.readouterr().out
    assert run_cli(["devices", "add", "gone", "pi@unreachable"]) == 9
    assert "gone" not in read_devices()
    assert run_cli(["devices", "remove", "mine"]) == 0
    assert run_cli(["devices", "remove", "mine"]) == 9
    assert "no device 'mine'" in capsys.readouterr().err


def test_a_damaged_list_of_devices_is_named():
    add_device("one", Board("pi@board"))
    devices_file().write_text("{")
    with pytest.raises(FileError, match="list of devices"):
        read_devices()
    devices_file().unlink()


def test_deploy_and_bench_from_the_command_line(
    bundle: Bundle, board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = bundle.save(tmp_path / "two.tw")
    assert run_cli(["deploy", str(path), "--to", str(tmp_path / "out"), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["runtime_bytes"] < 8_000_000
    assert run(tmp_path / "out", str(tmp_path / "out"), "--selftest").returncode == 0
    assert run_cli(["bench", str(path), "--device", "pi@board", "--repeat", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["selftest"]["passed"]
    words = ["bench", str(path), "--device", "pi@board", "--repeat", "3", "--no-estimate"]
    assert run_cli([*words, "--save", "--html", str(tmp_path / "two.html")]) == 0
    assert (tmp_path / "two.html").stat().st_size > 1000
    assert run_cli(["report", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert report["elsewhere"]["basis"] == "device"
    assert {row["name"] for row in report["kernels"]} <= {k.name for k in bundle.kernels}
    assert {row["time"]["label"] for row in report["kernels"]} == {"measured"}
    assert report["latency"]["runs"] == 3
    assert run_cli([*words, "--json"]) == 2
    capsys.readouterr()
    assert run_cli(["bench", str(path), "--device", "nobody"]) == 9
    assert run_cli(["deploy", str(path), "--to", "pi@unreachable"]) == 9


def test_a_report_that_a_board_measured(board: Path):
    net, x = torch.nn.Linear(8, 4).eval(), torch.ones(1, 8)
    report = compiler.compile(net, example_inputs=(x,), device="pi@board", estimate=False).report
    assert report.elsewhere.whence.startswith("measured on")
    assert report.latency.runs == 50
    assert report.memory.process_rss is None
    with pytest.raises(InputError, match="a device to measure on"):
        compiler.compile(net, example_inputs=(x,), device="pi@board", measure=False)
