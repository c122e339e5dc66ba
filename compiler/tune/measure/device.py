"""Lends this machine to tuning runs elsewhere: TVM's RPC server, made to survive candidates.

``python -m compiler.tune.measure.device --tracker 127.0.0.1:9190 --key zen4``

TVM's own server stops listening for good once a candidate has crashed a session; this one
goes on. It binds to loopback unless told otherwise, since whoever reaches it can run any code:
the protocol knows neither passwords nor encryption. Reach it through an SSH tunnel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence

from compiler.tune.measure.confine import pin, usable_cpus, without_torch
from compiler.tune.measure.remote import CPU_FUNCTION

_log = logging.getLogger("tilewright.device")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    options = _parse(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    pin(options.cpus or usable_cpus()[-1:])
    tracker = _address(options.tracker)
    listening = socket.create_server((options.host, options.port), backlog=1)
    port = listening.getsockname()[1]
    _log.info("%s at %s:%d, known to %s", options.key, options.host, port, options.tracker)
    without_torch()
    _register_cpu()
    from schedules.tvm_adapter import serve_rpc

    home = os.getcwd()  # noqa: PTH109 pathlib's would not do for a folder that is gone later
    # Ends the sessions too, which are processes of their own.
    signal.signal(signal.SIGTERM, _end_group)
    while True:
        try:
            serve_rpc(listening, port, options.key, tracker, options.address)
        except RuntimeError as error:
            _log.warning("a session has died: %s", error)
        except AssertionError:
            _log.warning("the tracker gave an answer that makes no sense")
        with contextlib.suppress(OSError):
            os.chdir(home)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compiler.tune.measure.device")
    parser.add_argument("--tracker", required=True, help="host:port of TVM's RPC tracker")
    parser.add_argument("--key", required=True, help="the kind of device, a name")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: loopback only)"
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen at (default: any)")
    parser.add_argument(
        "--address", help="address under which the tuner reaches it, if not as the tracker does"
    )
    parser.add_argument(
        "--cpus", type=int, nargs="+", help="CPUs to run on (default: the last one)"
    )
    return parser.parse_args(arguments)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        sys.exit(f"the tracker's address is {text!r}; give host:port, for example 127.0.0.1:9190")
    return host, int(port)


def _register_cpu() -> None:
    from schedules.records import Cpu
    from schedules.tvm_adapter import register_function

    cpu = Cpu.here()
    facts = {
        "name": cpu.name, "id": cpu.id, "features": sorted(cpu.features),
        "vector_bits": cpu.vector_bits, "cores": cpu.cores,
    }  # fmt: skip
    register_function(CPU_FUNCTION, lambda: json.dumps(facts))


def _end_group(_number: int, _frame: object) -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)


if __name__ == "__main__":
    # TVM's server makes its session folders there, and a crashed session leaves its own.
    with tempfile.TemporaryDirectory(prefix="tilewright-device-") as folder:
        tempfile.tempdir = folder
        main()
