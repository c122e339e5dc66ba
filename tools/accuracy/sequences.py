"""Figures of a sentence encoder and of a detector of speech, before and after quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import compiler
from compiler import Quantize
from tools.accuracy import minilm, silero

MINILM, SILERO = "minilm-l6", "silero-vad"
#: Words and frames that calibration sees.
WORDS, FRAMES = 300, 300
#: Variations of the recordings, about 680 frames each.
VARIATIONS = 6

#: Makes the figures that all networks have out of a bundle.
Figures = Callable[[Any], dict[str, Any]]


def sentence_encoder(recipe: Quantize, figures: Figures) -> dict[str, Any]:
    """Rank correlation on WordSim-353, and cosine of the vectors with PyTorch's."""
    model = minilm.load()
    samples = list(minilm.calibration(WORDS))
    bundle = compiler.compile(
        model,
        example_inputs=samples[0],
        name=MINILM,
        quantize=recipe,
        calibration=samples[1:] if recipe.needs_calibration else None,
        evaluate=minilm.spearman,
    )
    tokenizer, cosines = minilm.Tokenizer(), []
    words = sorted({w for a, b, _ in minilm.pairs() for w in (a, b)})
    for word in words:
        tokens = tokenizer(word)
        with torch.no_grad():
            want = model(*map(torch.from_numpy, tokens)).double().numpy().ravel()
        got = np.asarray(bundle(*tokens)).astype(np.float64).ravel()
        cosines.append(float(want @ got / np.sqrt((want @ want) * (got @ got))))
    return {
        **figures(bundle),
        "words": len(words),
        "cosine_mean": float(np.mean(cosines)),
        "cosine_least": float(np.min(cosines)),
    }


def speech_detector(recipe: Quantize, figures: Figures) -> dict[str, Any]:
    """Share of frames that are decided as in PyTorch."""
    model = silero.load()
    wanted = silero.decisions(silero.in_pytorch(model), VARIATIONS)
    samples = silero.calibration(model, FRAMES)

    def agreement(run: Callable[..., Any]) -> float:
        return float((silero.decisions(run, VARIATIONS) == wanted).mean())

    bundle = compiler.compile(
        model,
        example_inputs=samples[0],
        name=SILERO,
        quantize=replace(recipe, keep=(*recipe.keep, *silero.KEEP)),
        calibration=samples[1:] if recipe.needs_calibration else None,
        evaluate=agreement,
        tolerance=10.0,  # of an example that is silence, a probability of nearly 0
    )
    return {**figures(bundle), "frames": len(wanted), "speech": float(wanted.mean())}


__all__ = ["MINILM", "SILERO", "sentence_encoder", "speech_detector"]
