"""An ONNX network as MNN's files, in fp32 and in full int8 by MNN's quantizer.

    python -m tools.arm_peers.convert.mnn MODEL.onnx FLOAT.mnn INT8.mnn

MNN's commands are called as functions: as programs they report home and install packages.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import _tools  # of the MNN package
import numpy as np
import numpy.typing as npt

from tools.arm_peers.convert.calibration import EDGE, smooth_noise

_MEAN, _SPREAD = 127.5, 60.0


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write an RGB image, (height, width, 3)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
    )  # fmt: skip


def main() -> None:
    """Convert one network."""
    source, floating, int8 = sys.argv[1:4]
    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", floating,
         "--bizCode", "peers"]
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tilewright-mnn-") as work:
        images = Path(work) / "images"
        images.mkdir()
        for i, image in enumerate(smooth_noise()):
            pixels = np.clip(_MEAN + _SPREAD * image.transpose(1, 2, 0), 0, 255).astype(np.uint8)
            write_png(images / f"{i}.png", pixels)
        settings = {
            "format": "RGB",
            "mean": [_MEAN] * 3,
            "normal": [1 / _SPREAD] * 3,
            "width": EDGE,
            "height": EDGE,
            "path": f"{images}/",
            "used_image_num": len(list(images.iterdir())),
            # "KL" crashes in this release.
            "feature_quantize_method": "EMA",
            "weight_quantize_method": "MAX_ABS",
            "batch_size": 1,
            "input_type": "image",
        }
        config = Path(work) / "settings.json"
        config.write_text(json.dumps(settings))
        _tools.mnnquant(["mnnquant", floating, int8, str(config)])
    if not Path(int8).is_file():
        raise SystemExit("MNN's quantizer wrote nothing")


if __name__ == "__main__":
    main()
