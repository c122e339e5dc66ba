"""ncnn's float model as its int8 model, as ncnn's own quantizer, which its packages lack, does it.

    python -m tools.arm_peers.convert.ncnn_int8 FLOAT INT8

Both are names without ``.param`` and ``.bin``. Weights have a scale for each output channel, six
bits where ncnn uses its integer Winograd (3x3, stride 1) and eight elsewhere, activations one
scale by their greatest magnitude. What is between two convolutions stays int8; sums and pools
are in fp32, since ncnn has no others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import ncnn
import numpy as np
import numpy.typing as npt

from tools.arm_peers.convert.calibration import smooth_noise

Array = npt.NDArray[np.float32]
_INT8_WEIGHTS = 0x000D4B38
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")


@dataclass(slots=True)
class Layer:
    """A line of a ``.param`` file and what the ``.bin`` file has for it."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    options: dict[str, str]
    weights: Array | None = None
    bias: Array | None = None

    def number(self, key: int, default: int = 0) -> int:
        return int(self.options.get(str(key), default))


def read(model: Path) -> list[Layer]:
    """The layers of a float model.

    Raises:
        ValueError: Its weights are not fp32, or there are more than its layers need.
    """
    layers = []
    for line in Path(f"{model}.param").read_text().splitlines()[2:]:
        kind, name, bottoms, tops, *rest = line.split()
        below, above = int(bottoms), int(tops)
        options = dict(word.split("=", 1) for word in rest[below + above :])
        layers.append(Layer(kind, name, rest[:below], rest[below : below + above], options))
    data, at = Path(f"{model}.bin").read_bytes(), 0

    def take(count: int) -> Array:
        nonlocal at
        found = np.frombuffer(data, np.float32, count, at)
        at += 4 * count
        return found

    for layer in layers:
        if layer.kind not in (*_CONVOLUTIONS, "InnerProduct"):
            continue
        dense = layer.kind == "InnerProduct"
        if take(1).view(np.uint32)[0]:
            raise ValueError(f"{layer.name}: the weights are not fp32")
        layer.weights = take(layer.number(2 if dense else 6))
        if layer.number(1 if dense else 5):
            layer.bias = take(layer.number(0))
    if at != len(data):
        raise ValueError(f"{model}: {len(data) - at} bytes belong to no layer")
    return layers


def magnitudes(model: Path, layers: list[Layer]) -> dict[str, float]:
    """Greatest magnitude of each tensor that a convolution or a dense layer reads."""
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(f"{model}.param")
    net.load_model(f"{model}.bin")
    wanted = {layer.bottoms[0] for layer in layers if layer.weights is not None}
    found = dict.fromkeys(wanted, 1e-6)
    for image in smooth_noise():
        extractor = net.create_extractor()
        extractor.set_light_mode(False)
        source = ncnn.Mat(np.ascontiguousarray(image)).clone()
        extractor.input("in0", source)
        for blob in wanted:
            value = np.array(extractor.extract(blob)[1])
            found[blob] = max(found[blob], float(np.abs(value).max()))
    return found


def write(model: Path, layers: list[Layer], found: dict[str, float]) -> None:
    """Write the int8 model."""
    by_bottom = {layer.bottoms[0]: layer for layer in layers if layer.kind in _CONVOLUTIONS}
    blobs = {top for layer in layers for top in layer.tops}
    lines = ["7767517", f"{len(layers)} {len(blobs)}"]
    parts: list[bytes] = []
    for layer in layers:
        if layer.weights is not None:
            after = by_bottom.get(layer.tops[0]) if layer.kind in _CONVOLUTIONS else None
            parts += _quantized(layer, after, found)
        counts = f"{len(layer.bottoms)} {len(layer.tops)}"
        options = (f"{key}={value}" for key, value in layer.options.items())
        words = [layer.kind, layer.name, counts, *layer.bottoms, *layer.tops, *options]
        lines.append(" ".join(words))
    Path(f"{model}.param").write_text("\n".join(lines) + "\n")
    Path(f"{model}.bin").write_bytes(b"".join(parts))


def _quantized(layer: Layer, after: Layer | None, found: dict[str, float]) -> list[bytes]:
    assert layer.weights is not None
    depthwise = layer.kind == "ConvolutionDepthWise"
    rows = layer.weights.reshape(layer.number(7) if depthwise else layer.number(0), -1)
    winograd = layer.kind == "Convolution" and layer.number(1) == 3 and layer.number(3, 1) == 1
    scales = (31 if winograd else 127) / np.maximum(np.abs(rows).max(axis=1), 1e-6)
    stored = np.rint(rows * scales[:, None]).astype(np.int8).tobytes()
    term = 1 if depthwise else 2
    numbers = [*scales, 127 / found[layer.bottoms[0]]]
    if after is not None:
        term += 100
        numbers.append(127 / found[after.bottoms[0]])
    layer.options["8"] = str(term)
    parts = [np.uint32(_INT8_WEIGHTS).tobytes(), stored, bytes(-len(stored) % 4)]
    if layer.bias is not None:
        parts.append(layer.bias.tobytes())
    return [*parts, np.array(numbers, np.float32).tobytes()]


def main() -> None:
    """Convert one network."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    layers = read(source)
    write(target, layers, magnitudes(source, layers))


if __name__ == "__main__":
    main()
