"""README's promise: a bundle is loaded and run without PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.compile

_RUN = """
import sys
sys.modules["torch"] = None  # any import of it fails
import numpy as np
from compiler import load
net = load(sys.argv[1])
np.save(sys.argv[3], net(np.load(sys.argv[2])))
"""


def test_a_bundle_runs_where_torch_cannot_be_imported(tmp_path: Path) -> None:
    import torch

    from compiler import compile

    model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU()).eval()
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    compile(model, example_inputs=(x,), measure=False).save(tmp_path / "net.tw")
    np.save(tmp_path / "x.npy", x.numpy())
    subprocess.run(
        [sys.executable, "-c", _RUN, tmp_path / "net.tw", tmp_path / "x.npy", tmp_path / "y.npy"],
        check=True,
        timeout=120,
    )
    expected = model(x).detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-5, atol=1e-6)
