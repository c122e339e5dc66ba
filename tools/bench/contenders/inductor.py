"""torch.compile with its default back end, which writes and compiles C++."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools.bench.contenders.case import Array, load_torch, torch_facts, torch_outputs


class Inductor:
    def prepare(self, case: Path, options: dict[str, str]) -> dict[str, Any]:
        from torch._dynamo.utils import counters
        from torch._inductor import config

        torch.set_num_threads(int(options["threads"]))
        freezing = "freezing" in options
        config.freezing = freezing
        model, self.inputs = load_torch(case)
        self.model = torch.compile(model, fullgraph=True)
        for _ in range(2):
            self.run()
        graphs = counters["stats"]["unique_graphs"]
        if not graphs:  # dynamo can be switched off by the environment, without a word
            raise RuntimeError("torch.compile compiled no graph")
        return torch_facts("inductor, no_grad" + (", freezing = True" if freezing else ""))

    # Freezing works under no_grad only, and both variants should differ by nothing else.
    @torch.no_grad()
    def run(self) -> None:
        self.result = self.model(*self.inputs)

    def outputs(self) -> list[Array]:
        return torch_outputs(self.result)
