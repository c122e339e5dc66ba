"""Networks that transformers defines, in small configurations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from tools.zoo.entries import Built, Entry, seeded
from tools.zoo.nets.weights import example, tokens

_TEXT: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


class Named(nn.Module):
    """One field of a model's output, without a cache of keys and values."""

    def __init__(self, model: nn.Module, argument: str, field: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.argument = argument
        self.field = field
        self.options = options

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        inputs = {self.argument: x, **self.options}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        return getattr(self.model(**inputs), self.field)


def _load(model: str, config: str, **options: Any) -> Any:
    from tools.zoo.packages import declare_torchvision_operators

    declare_torchvision_operators()
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**options))


def _text_inputs(length: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(1, length, dtype=torch.int64)
    mask[:, length - 4 :] = 0
    return tokens(1, length, vocabulary=1000), mask


def _encoder(model: str, config: str, options: dict[str, Any]) -> Built:
    def make() -> nn.Module:
        net = _load(model, config, **options)
        return Named(net, "input_ids", "last_hidden_state")

    return seeded(make), _text_inputs()


def _decoder(model: str, config: str, options: dict[str, Any]) -> Built:
    def make() -> nn.Module:
        net = _load(model, config, **options)
        return Named(net, "input_ids", "logits", use_cache=False)

    return seeded(make), _text_inputs()


def _bert_as_it_is() -> Built:
    """Without a wrapper: inputs by name, a model output with two fields."""
    ids, mask = _text_inputs()
    net = seeded(lambda: _load("BertModel", "BertConfig", **_TEXT))
    return net, {"input_ids": ids, "attention_mask": mask}


def _signal(
    model: str,
    config: str,
    argument: str,
    shape: tuple[int, ...],
    field: str,
    options: dict[str, Any],
) -> Built:
    net = seeded(lambda: Named(_load(model, config, **options), argument, field))
    return net, (example(*shape),)


def _whisper() -> Built:
    def make() -> nn.Module:
        encoder = _load("WhisperModel", "WhisperConfig", **_WHISPER).get_encoder()
        return Named(encoder, "input_features", "last_hidden_state")

    return seeded(make), (example(1, 80, 200),)


def _entry(name: str, kind: str, make: Any, *arguments: Any) -> Entry:
    return Entry(f"hf_{name}", kind, "transformers", partial(make, *arguments))


_GPT2 = {"vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
_DISTIL = {"vocab_size": 1000, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
_T5 = {"vocab_size": 1000, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
_WHISPER = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_source_positions": 100,
    "num_mel_bins": 80,
}
_WAV2VEC = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SEGFORMER = {
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 1, 1, 1],
    "decoder_hidden_size": 64,
    "num_labels": 5,
}
_CLIP = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}

ENTRIES: tuple[Entry, ...] = (
    _entry("bert", "text encoder", _bert_as_it_is),
    _entry("distilbert", "text encoder", _encoder, "DistilBertModel", "DistilBertConfig", _DISTIL),
    _entry("roberta", "text encoder", _encoder, "RobertaModel", "RobertaConfig", _TEXT),
    _entry(
        "albert",
        "text encoder",
        _encoder,
        "AlbertModel",
        "AlbertConfig",
        {**_TEXT, "embedding_size": 32},
    ),
    _entry("electra", "text encoder", _encoder, "ElectraModel", "ElectraConfig", _TEXT),
    _entry("deberta_v2", "text encoder", _encoder, "DebertaV2Model", "DebertaV2Config", _TEXT),
    _entry("t5_encoder", "text encoder", _encoder, "T5EncoderModel", "T5Config", _T5),
    _entry("gpt2", "decoder, prefill", _decoder, "GPT2LMHeadModel", "GPT2Config", _GPT2),
    _entry("llama", "decoder, prefill", _decoder, "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    _entry("qwen2", "decoder, prefill", _decoder, "Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    _entry(
        "opt",
        "decoder, prefill",
        _decoder,
        "OPTForCausalLM",
        "OPTConfig",
        {**_TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64},
    ),
    _entry("gpt_neox", "decoder, prefill", _decoder, "GPTNeoXForCausalLM", "GPTNeoXConfig", _TEXT),
    _entry("whisper_encoder", "audio encoder", _whisper),
    _entry(
        "wav2vec2",
        "audio encoder",
        _signal,
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        "input_values",
        (1, 3200),
        "last_hidden_state",
        _WAV2VEC,
    ),
    _entry(
        "segformer",
        "segmentation",
        _signal,
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "pixel_values",
        (1, 3, 64, 64),
        "logits",
        _SEGFORMER,
    ),
    _entry(
        "clip_vision",
        "vision transformer",
        _signal,
        "CLIPVisionModel",
        "CLIPVisionConfig",
        "pixel_values",
        (1, 3, 64, 64),
        "last_hidden_state",
        _CLIP,
    ),
)

__all__ = ["ENTRIES", "Named"]
