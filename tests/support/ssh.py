#!/usr/bin/env python3
"""A stand-in for ssh: boards on this machine, also emulated ones. See `tests.support.boards`.

The folder $BOARDS holds a folder for each board by its host's name, which is its home. In the
file "board.json" beside the homes is what boards are. A board with a file "down" in its home
cannot be reached, and its connections end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> int:
    """Do as ssh would."""
    words, forward = sys.argv[1:], None
    while words[0].startswith("-"):
        if words[0] == "-L":
            forward = words[1]
        words = words[2:]
    host, command = words[0].rpartition("@")[2], words[1]
    folder = Path(os.environ["BOARDS"])
    if host == "stranger":
        return fail("pi@stranger: Permission denied (publickey).")
    home = folder / host
    down = home / "down"
    if not home.is_dir() or down.exists():
        return fail(f"ssh: connect to host {host} port 22: No route to host")
    for old, new in json.loads((folder / "board.json").read_text()).items():
        command = command.replace(old, new)
    if forward is not None:
        here, there = (int(part) for part in forward.split(":")[1::2])
        listening = socket.create_server(("127.0.0.1", here))
        threading.Thread(target=serve, args=(listening, there), daemon=True).start()
    process = subprocess.Popen(["sh", "-c", command], cwd=home, start_new_session=True)
    while process.poll() is None:
        if down.exists():
            os.killpg(process.pid, signal.SIGKILL)
            return fail(f"client_loop: send disconnect to {host}: Broken pipe")
        time.sleep(0.01)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def fail(text: str) -> int:
    """What ssh says and returns where a connection fails."""
    sys.stderr.write(f"{text}\n")
    return 255


def serve(listening: socket.socket, port: int) -> None:
    """Forward each connection."""
    while True:
        near, _ = listening.accept()
        try:
            far = socket.create_connection(("127.0.0.1", port))
        except OSError:
            near.close()
            continue
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=copy, args=(one, other), daemon=True).start()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """All that one end says, to the other."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    sys.exit(main())
