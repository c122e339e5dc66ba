"""The contenders: what runs in a worker process, and what the driver knows of each.

Nothing is imported here, since every contender's module is imported in its own environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of running a network.

    Attributes:
        key: Name on the command line and in the results.
        label: Name in tables.
        entry: ``module:Class`` that the worker imports.
        environment: Name of the virtual environment, a file of ``tools/bench/requirements``;
            None for the one that the driver runs in.
        needs_onnx: Whether it reads the network as an ONNX file.
        options: Passed to its `prepare`.
    """

    key: str
    label: str
    entry: str
    environment: str | None = None
    needs_onnx: bool = False
    options: dict[str, str] = field(default_factory=dict)


#: Keys of our own contenders: without records, with the shipped ones, and with them in bf16.
OURS = "tilewright"
TUNED = "tilewright-tuned"
BF16 = "tilewright-bf16"
OWN = (OURS, TUNED, BF16)

_HERE = "tools.bench.contenders"

CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        Contender(OURS, "Tilewright, default", f"{_HERE}.ours:Ours", options={"records": "none"}),
        Contender(TUNED, "Tilewright, tuned", f"{_HERE}.ours:Ours"),
        Contender(
            BF16, "Tilewright, bf16", f"{_HERE}.ours:Ours", options={"precision": "bfloat16"}
        ),
        Contender("torch", "PyTorch eager", f"{_HERE}.eager:Eager"),
        Contender("compile", "torch.compile", f"{_HERE}.inductor:Inductor"),
        Contender(
            "compile-freeze",
            "torch.compile, frozen",
            f"{_HERE}.inductor:Inductor",
            options={"freezing": "1"},
        ),
        Contender("ort", "ONNX Runtime", f"{_HERE}.ort:Ort", "ort", needs_onnx=True),
        Contender(
            "openvino", "OpenVINO", f"{_HERE}.openvino_cpu:OpenVino", "openvino", needs_onnx=True
        ),
        Contender(
            "openvino-f32",
            "OpenVINO, f32",
            f"{_HERE}.openvino_cpu:OpenVino",
            "openvino",
            needs_onnx=True,
            options={"precision": "f32"},
        ),
    )
}


def base_of(keys: Iterable[str]) -> str:
    """Which of our contenders the peers' ratios refer to: the tuned one if it takes part.

    Raises:
        ValueError: None of ours takes part.
    """
    present = set(keys)
    for key in (TUNED, OURS, BF16):
        if key in present:
            return key
    raise ValueError("none of our contenders takes part")


#: The peers that are measured when none are named.
DEFAULT_PEERS = ("torch", "compile", "ort", "openvino", "openvino-f32")
