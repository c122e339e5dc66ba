"""Planes of float32 to bytes of pixels, a row at a time."""

from __future__ import annotations

import json

from schedules.cpu.compute import images
from schedules.cpu.compute.neon_integers import BYTES
from schedules.cpu.rules.base import (
    Applied,
    NotApplicableError,
    annotation,
    find_kernel,
    leaf_blocks,
    parallelize,
    replace_body,
)
from schedules.tvm_adapter import Schedule
from targets.spec import TargetSpec


class ImageBytes:
    """Vectors of pixels: each plane is read and quantized once, bytes are put side by side."""

    name = "image-bytes"
    builds_choices = False

    def apply(self, sch: Schedule, spec: TargetSpec) -> Applied:
        """See `Rule.apply`."""
        heart = find_kernel(sch, frozenset({images.KIND}))
        if len(leaf_blocks(sch)) > 1:
            raise NotApplicableError("something is fused with it")
        parameters = json.loads(str(annotation(sch, heart, images.PARAMETERS)))
        lanes = spec.vector_lanes("int32")
        neon = spec.machine == "aarch64" and parameters["image"][2] >= BYTES
        lanes = BYTES if neon else lanes
        while lanes > parameters["image"][2]:
            lanes //= 2
        n, h, w, _ = sch.get_loops(heart)
        parallelize(sch, [n, h])
        whole = sch.blockize(w)
        block = sch.get(whole)
        write, read = block.writes[0], block.reads[0]
        at = (write.region[0].min, write.region[1].min)
        body = images.statements(read.source, write.source, at, lanes, parameters, neon=neon)
        replace_body(sch, whole, body)
        return Applied("elementwise", f"{lanes} pixels at a time")
