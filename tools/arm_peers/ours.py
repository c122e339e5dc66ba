"""Our own modules, counted as the peers are: everything that one inference executes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.arm_peers.convert.calibration import smooth_noise
from tools.arm_peers.counts import Entry, count


def count_ours(net: str, precision: str, target: str, wheels: Path | None) -> list[Entry]:
    """Compile a network and count one inference of its deployment by the C runner.

    Args:
        net: A benchmark network.
        precision: ``float32`` or ``int8``.
        target: The target's name.
        wheels: As in `compiler.deploy.runtime_libraries`.

    Raises:
        TilewrightError: It cannot be compiled or deployed.
        CountError: It fails in emulation.
    """
    import torch

    from compiler import api
    from compiler.deploy.folder import write_deployment
    from compiler.estimate.counting import emulator
    from tools.zoo.nets import build

    module, inputs = build(net)
    quantized = precision == "int8"
    samples = [(torch.from_numpy(image[None]),) for image in smooth_noise()]
    bundle = api.compile(
        module,
        target=target,
        example_inputs=inputs,
        measure=False,
        estimate=False,
        quantize="int8" if quantized else None,
        calibration=samples if quantized else None,
    )
    with tempfile.TemporaryDirectory(prefix="tilewright-peers-") as work:
        folder = write_deployment(bundle, Path(work) / "model", wheels=wheels).path

        def command(number: int, maps: Path) -> Sequence[str]:
            return [str(folder / "run"), str(folder), "--threads", "1", "--warmup", "0",
                    "--bench", str(number), "--maps", str(maps)]  # fmt: skip

        return count(command, emulator(bundle.target), {})


__all__ = ["count_ours"]
