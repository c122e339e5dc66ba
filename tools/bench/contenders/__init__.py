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
        needs_samples: Whether it reads inputs to calibrate by, the same for all.
        options: Passed to its `prepare`.
    """

    key: str
    label: str
    entry: str
    environment: str | None = None
    needs_onnx: bool = False
    needs_samples: bool = False
    options: dict[str, str] = field(default_factory=dict)


#: Keys of our own contenders: without records, with the shipped ones, with them in bf16 and in
#: int8, and int8 without records.
OURS = "tilewright"
TUNED = "tilewright-tuned"
BF16 = "tilewright-bf16"
INT8 = "tilewright-int8"
INT8_UNTUNED = "tilewright-int8-default"
OWN = (OURS, TUNED, BF16, INT8, INT8_UNTUNED)

_HERE = "tools.bench.contenders"

CONTENDERS: dict[str, Contender] = {
    contender.key: contender
    for contender in (
        Contender(OURS, "Tilewright, default", f"{_HERE}.ours:Ours", options={"records": "none"}),
        Contender(TUNED, "Tilewright, tuned", f"{_HERE}.ours:Ours"),
        Contender(
            BF16, "Tilewright, bf16", f"{_HERE}.ours:Ours", options={"precision": "bfloat16"}
        ),
        Contender(
            INT8,
            "Tilewright, int8",
            f"{_HERE}.ours:Ours",
            needs_samples=True,
            options={"quantize": "int8"},
        ),
        Contender(
            INT8_UNTUNED,
            "Tilewright, int8, default",
            f"{_HERE}.ours:Ours",
            needs_samples=True,
            options={"quantize": "int8", "records": "none"},
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
        Contender(
            "openvino-int8",
            "OpenVINO, NNCF int8",
            f"{_HERE}.openvino_int8:OpenVinoInt8",
            "openvino-int8",
            needs_onnx=True,
            needs_samples=True,
        ),
        Contender(
            "ort-int8",
            "ONNX Runtime, int8",
            f"{_HERE}.ort_int8:OrtInt8",
            "ort-int8",
            needs_onnx=True,
            needs_samples=True,
        ),
    )
}


def base_of(keys: Iterable[str]) -> str:
    """Which of our contenders the peers' ratios refer to.

    The one in int8 if it takes part, else the tuned one.

    Raises:
        ValueError: None of ours takes part.
    """
    present = set(keys)
    for key in (INT8, TUNED, OURS, BF16, INT8_UNTUNED):
        if key in present:
            return key
    raise ValueError("none of our contenders takes part")


#: What is measured when nothing is named, of ours and of others.
DEFAULT_OWN = (OURS, TUNED, BF16)
DEFAULT_PEERS = ("torch", "compile", "ort", "openvino", "openvino-f32")
#: The same for int8; our float32 stands beside it.
INT8_OWN = (TUNED, INT8_UNTUNED, INT8)
INT8_PEERS = ("openvino-int8", "ort-int8")
