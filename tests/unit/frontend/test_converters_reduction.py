from __future__ import annotations

from typing import Any

import pytest
import torch

pytestmark = pytest.mark.compile


def test_reductions(check: Any, rng: torch.Generator) -> None:
    def model(x: torch.Tensor, i: torch.Tensor) -> Any:
        mask = i > 1
        return {
            "sum_bool": mask.sum(),
            "sum_dims": x.sum((1, 2)),
            "sum_dtype": i.sum(1, dtype=torch.float32),
            "mean": x.mean(-1, keepdim=True),
            "prod": x.prod(1),
            "prod_all": i.prod(),
            "amax": x.amax((0, 2)),
            "amin": x.amin(-1, keepdim=True),
            "max_all": x.max(),
            "max": x.max(1),
            "min": x.min(2, keepdim=True),
            "argmax": x.argmax(1),
            "argmax_all": x.argmax(),
            "argmin": x.argmin(-1, keepdim=True),
            "any": mask.any(),
            "any_dim": mask.any(1),
            "all": mask.all(-1, keepdim=True),
            "var": x.var(-1),
            "var0": x.var((1, 2), correction=0),
            "std": x.std(1),
            "std_all": x.std(),
            "var_mean": torch.var_mean(x, -1),
            "logsumexp": x.logsumexp((1, 2)),
            "logsumexp_keep": x.logsumexp(-1, keepdim=True),
            "norm1": x.norm(1, dim=-1),
            "norm2": x.norm(dim=1),
            "norm_inf": x.norm(float("inf"), dim=-1),
            "norm3": torch.linalg.vector_norm(x, 3, dim=-1),
            "log_softmax": x.log_softmax(1),
            "softmax_int": i.softmax(-1, dtype=torch.float32),
            "count": torch.count_nonzero(i, dim=1),
        }

    x = torch.randn(2, 3, 5, generator=rng)
    check(model, x, torch.randint(0, 4, (2, 3, 5), generator=rng), tolerance=5e-6)


def test_scans_and_orders(check: Any, rng: torch.Generator) -> None:
    def model(x: torch.Tensor, i: torch.Tensor) -> Any:
        return {
            "cumsum_bool": (i > 1).cumsum(-1),
            "cumsum_int": i.to(torch.int32).cumsum(0),
            "cumsum": x.cumsum(1),
            "cumsum_dtype": i.cumsum(-1, dtype=torch.float32),
            "cumprod": x.cumprod(-1),
            "topk": x.topk(2, -1),
            "topk_small": x.topk(2, 1, largest=False),
            "sort": x.sort(-1, descending=True),
            "argsort": x.argsort(1),
        }

    x = torch.randn(2, 3, 5, generator=rng)
    check(model, x, torch.randint(0, 4, (2, 3, 5), generator=rng), tolerance=5e-6)
