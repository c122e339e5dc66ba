"""Messages between the tuner and its workers: JSON texts over a socket pair.

Never pickles: a worker runs code that nobody has checked yet, and what it answers is data.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]


def send(connection: Connection, message: Message) -> None:
    """Send one message.

    Raises:
        OSError: The other end is gone.
    """
    connection.send_bytes(json.dumps(message).encode())


def receive(connection: Connection) -> Message:
    """Wait for one message.

    Raises:
        EOFError: The other end is gone.
        OSError: Likewise, or what came is no JSON object.
        ValueError: What came is no JSON.
    """
    message = json.loads(connection.recv_bytes())
    if not isinstance(message, dict):
        raise OSError(f"not a message: {message!r}")
    return message


__all__ = ["Message", "receive", "send"]
