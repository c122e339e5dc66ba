"""PyTorch, operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools.bench.contenders.case import Array, load_torch, torch_facts, torch_outputs


class Eager:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        torch.set_num_threads(int(options["threads"]))
        self.model, self.inputs = load_torch(case)
        self.run()
        return torch_facts("inference_mode")

    @torch.inference_mode()
    def run(self) -> None:
        self.result = self.model(*self.inputs)

    def outputs(self) -> list[Array]:
        return torch_outputs(self.result)
