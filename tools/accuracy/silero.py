"""silero-vad, a network that tells speech from noise, and how often int8 decides otherwise.

The network is built here from plain modules and the trained weights in the package's TorchScript
file; `load` checks that it gives what that file gives. Frames of 32 ms, one after another, with
the LSTM's state as input and output.
"""

from __future__ import annotations

import wave
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from tools.accuracy.packages import Wheel, fetch, fetch_debian

MODEL = Wheel("silero-vad", "6.2.3", ("data/silero_vad.jit",))
#: The Debian package with recordings of spoken words, and of noise.
SOUNDS = "alsa-utils"
RATE, FRAME, CONTEXT, STATE = 16000, 512, 64, 128
#: Above this probability a frame is speech.
THRESHOLD = 0.5
#: What stays float32: the transform into frequencies and what reads it, since quiet sounds are much
#: less than loud ones, and the LSTM cell, whose state would gather errors from frame to frame.
KEEP = ("stft", "encoder.0", "rnn_input", "rnn_hidden")

Floats = npt.NDArray[np.float32]
Frame = tuple[Floats, Floats, Floats]


class SileroVad(nn.Module):
    """float32 ``[1, 576]`` (64 samples of context, 512 new ones) and state to a probability."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        sizes = [(129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1)]
        self.encoder = nn.ModuleList(nn.Conv1d(i, o, 3, s, 1) for i, o, s in sizes)
        self.rnn_input = nn.Linear(STATE, 4 * STATE)
        self.rnn_hidden = nn.Linear(STATE, 4 * STATE)
        self.head = nn.Linear(STATE, 1)

    def forward(
        self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = functional.pad(x[:, None], (0, 64), mode="reflect")
        real, imaginary = self.stft(x).split(129, 1)
        y = (real * real + imaginary * imaginary).sqrt()
        for layer in self.encoder:
            y = functional.relu(layer(y))
        gates = self.rnn_input(y[:, :, 0]) + self.rnn_hidden(h)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return torch.sigmoid(self.head(functional.relu(h))), h, c


def load() -> nn.Module:
    """The network with its trained weights, for inference."""
    script = torch.jit.load(str(fetch(MODEL) / "silero_vad.jit"))
    state = {k.removeprefix("_model."): v for k, v in script.state_dict().items()}
    names = {
        "stft.weight": "stft.forward_basis_buffer",
        "rnn_input.weight": "decoder.rnn.weight_ih", "rnn_input.bias": "decoder.rnn.bias_ih",
        "rnn_hidden.weight": "decoder.rnn.weight_hh", "rnn_hidden.bias": "decoder.rnn.bias_hh",
        "head.weight": "decoder.decoder.2.weight", "head.bias": "decoder.decoder.2.bias",
        **{
            f"encoder.{i}.{kind}": f"encoder.{i}.reparam_conv.{kind}"
            for i in range(4)
            for kind in ("weight", "bias")
        },
    }  # fmt: skip
    model = SileroVad()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    model.load_state_dict({k: state[v].reshape(shapes[k]) for k, v in names.items()})
    model.eval()
    x, zero = torch.randn(1, CONTEXT + FRAME) * 0.1, torch.zeros(1, STATE)
    with torch.no_grad():
        wanted, _ = script._model(x, torch.stack([zero, zero]))
        got, _, _ = model(x, zero, zero)
    torch.testing.assert_close(got.reshape(-1), wanted.reshape(-1), rtol=1e-3, atol=1e-4)
    return model


def sounds(seed: int) -> list[Floats]:
    """The recordings at 16 kHz, each louder or quieter, with silence and noise about it."""
    rng = np.random.default_rng(seed)
    found = []
    for path in sorted(fetch_debian(SOUNDS, "*.wav").glob("*.wav")):
        with wave.open(str(path)) as file:
            stored = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            data = stored.reshape(-1, file.getnchannels())[:, 0].astype(np.float64) / 32768
            step = file.getframerate() // RATE
        if step > 1:  # low pass, then every third sample
            t = np.arange(-32 * step, 32 * step + 1) / step
            data = np.convolve(data, np.sinc(t) * np.hanning(t.size) / step, "same")[::step]
        data = data * rng.uniform(0.3, 1.2)
        pad = [np.zeros(int(rng.integers(4000, 12000))) for _ in range(2)]
        data = np.concatenate([pad[0], data, pad[1]])
        noise = rng.standard_normal(data.size) * 10 ** rng.uniform(-4, -2)
        found.append(np.clip(data + noise, -1, 1).astype(np.float32))
    return found


def frames(sound: Floats, run: Callable[..., Any]) -> Iterator[tuple[Frame, float]]:
    """Inputs of each frame, and the probability of speech: the state goes from one to the next."""
    h = c = np.zeros((1, STATE), np.float32)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    for start in range(0, len(sound) - FRAME + 1, FRAME):
        x = padded[None, start : start + CONTEXT + FRAME]
        given = (x, h, c)
        probability, h, c = (np.asarray(v) for v in run(*given))
        yield given, float(probability.reshape(()))


def in_pytorch(model: nn.Module) -> Callable[..., Any]:
    """The float32 network on arrays."""

    def run(*arrays: Floats) -> Any:
        with torch.no_grad():
            return [v.numpy() for v in model(*map(torch.from_numpy, arrays))]

    return run


def calibration(model: nn.Module, count: int) -> list[Frame]:
    """Frames of one variation of the recordings, with the states that PyTorch comes to."""
    found = [frame for sound in sounds(0) for frame, _ in frames(sound, in_pytorch(model))]
    order = np.random.default_rng(1).permutation(len(found))[:count]
    return [found[i] for i in order]


def decisions(run: Callable[..., Any], variations: int) -> npt.NDArray[np.bool_]:
    """Whether each frame of other variations of the recordings is speech."""
    found = [
        probability > THRESHOLD
        for seed in range(1, 1 + variations)
        for sound in sounds(seed)
        for _, probability in frames(sound, run)
    ]
    return np.asarray(found)


__all__ = ["KEEP", "MODEL", "SOUNDS", "SileroVad", "calibration", "decisions", "in_pytorch", "load"]
