"""A deployment: one folder with the model, TVM's runtime and the runner."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.deploy.libraries import runtime_libraries
from compiler.deploy.runner import (
    EXAMPLE,
    HEADER,
    LIBRARY,
    PROGRAM,
    Tell,
    build_runner,
)
from compiler.native import RUNNER_FOLDER
from compiler.package import Bundle
from compiler.package.atomic import write_folder
from compiler.stages import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

#: 2: parameters that the runner packs when it loads the model.
SCHEMA = "tilewright.deploy/2"
#: Facts of the model: for programs, and the same for the runner, line by line.
MODEL, LINES = "model.json", "model.txt"
#: Parameters begin at multiples of this: compiled code takes no others.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Deployment:
    """A folder that was written.

    Attributes:
        path: The folder.
        machine: Machine that it is for.
        runtime_bytes: Of everything but the model: the runner and TVM's runtime.
        model_bytes: Of module, parameters and golden pair.
        parameter_bytes: Of the parameters in memory, where some are packed.
    """

    path: Path
    machine: str
    runtime_bytes: int
    model_bytes: int
    parameter_bytes: int


def write_deployment(
    bundle: Bundle, path: Path, *, wheels: Path | None = None, tell: Tell | None = None
) -> Deployment:
    """Write all that a device needs into one folder, whole or not at all.

    Args:
        bundle: The model, for any machine.
        path: The folder. One that is there is replaced only if it is a deployment, too.
        wheels: As in `runtime_libraries`.
        tell: Called before long work.

    Raises:
        DeployError: There is no runtime or compiler for the machine.
        FileError: It cannot be written; what was there is as it was.
    """
    machine = bundle.manifest.platform.machine
    libraries = runtime_libraries(machine, wheels, tell)
    runner = build_runner(machine, libraries, tell)
    runtime = {
        PROGRAM: (runner / PROGRAM).read_bytes(),
        f"lib/{LIBRARY}": (runner / LIBRARY).read_bytes(),
        **{f"lib/{library.name}": library.read_bytes() for library in libraries},
    }
    sources = {f"c/{name}": (RUNNER_FOLDER / name).read_bytes() for name in (HEADER, EXAMPLE)}
    model = model_files(bundle)
    write_folder(
        path, {**model, **runtime, **sources}, replace_if=MODEL, executable=frozenset(runtime)
    )
    return Deployment(
        path, machine, sum(map(len, runtime.values())), sum(map(len, model.values())),
        bundle.loaded_parameter_bytes,
    )  # fmt: skip


def model_files(bundle: Bundle) -> dict[str, bytes]:
    """The files of the model itself, by name."""
    parameters, entries = _pack(bundle)
    facts = {
        "schema": SCHEMA,
        "name": bundle.name,
        "target": bundle.target.name,
        "machine": bundle.manifest.platform.machine,
        "required_features": list(bundle.manifest.required_features),
        "precision": bundle.manifest.precision,
        "inputs": _ports(bundle.inputs),
        "outputs": _ports(bundle.outputs),
        "parameters": entries,
        "prepared_bytes": bundle.manifest.prepared_bytes,
        "threads": bundle.threads,
        "tolerance": bundle.manifest.golden_tolerance,
        "golden_sha256": bundle.manifest.golden_sha256,
    }
    files = {
        MODEL: (json.dumps(facts, indent=1) + "\n").encode(),
        LINES: _lines(facts, len(bundle.library)).encode(),
        "module.so": bundle.library,
        "parameters.bin": parameters,
    }
    for side, arrays in (("input", bundle.golden.inputs), ("output", bundle.golden.outputs)):
        for i, array in enumerate(arrays):
            files[f"golden/{side}{i}.npy"] = _npy(array)
    return files


def _pack(bundle: Bundle) -> tuple[bytes, list[dict[str, Any]]]:
    """The file of parameters, and what is where in it."""
    data = bytearray()
    entries: list[dict[str, Any]] = []
    prepared = {item.parameter: item for item in bundle.manifest.prepared}
    for name, array in bundle.parameters.items():
        data.extend(bytes(-len(data) % ALIGNMENT))
        entries.append(
            {
                "name": name, "dtype": array.dtype.name, "shape": list(array.shape),
                "offset": len(data), "bytes": array.nbytes,
            }
        )  # fmt: skip
        if name in prepared:
            item = prepared[name]
            entries[-1]["prepared"] = {
                "function": item.function, "dtype": item.dtype, "shape": list(item.shape)
            }  # fmt: skip
        data.extend(array.tobytes())
    return bytes(data), entries


def _ports(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name, "dtype": spec.dtype,
            "shape": [extent if isinstance(extent, int) else -1 for extent in spec.shape],
        }
        for spec in specs
    ]  # fmt: skip


def _lines(facts: Mapping[str, Any], library_bytes: int) -> str:
    """What the runner reads: one fact a line, a name at the end of it."""

    def port(kind: str, fact: Mapping[str, Any], *before: object) -> str:
        shape = fact["shape"]
        name = str(fact["name"]).replace("\n", " ")
        return " ".join(map(str, [kind, fact["dtype"], *before, len(shape), *shape, name]))

    lines = ["tilewright deploy/2", f"threads {facts['threads']}"]
    lines += [f"tolerance {facts['tolerance']!r}", f"library {library_bytes}"]
    lines += [port("input", fact) for fact in facts["inputs"]]
    lines += [port("output", fact) for fact in facts["outputs"]]
    for fact in facts["parameters"]:
        lines.append(port("parameter", fact, fact["offset"], fact["bytes"]))
        if "prepared" in fact:  # of the parameter above
            made = fact["prepared"]
            lines.append(port(f"prepared {made['function']}", {**made, "name": fact["name"]}))
    return "\n".join(lines) + "\n"


def _npy(array: Array) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()


__all__ = ["MODEL", "SCHEMA", "Deployment", "model_files", "write_deployment"]
