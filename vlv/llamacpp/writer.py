"""A language model of transformers as a stock GGUF file: weights in f16, and its tokenizer.

Names of keys and of tensors are the package gguf's own. Of each architecture llama.cpp's layout is written:
github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlv.llamacpp.vocabulary import Vocabulary, read_vocabulary

ARCHITECTURES = ("llama", "qwen2")  # by transformers' model_type, which is llama.cpp's name too
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class _Weight:
    """A tensor of the file: its name there, and what it is made of; `heads` where its rows are reordered."""

    name: str
    value: Tensor
    heads: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Vectors are small and enter sums: llama.cpp keeps them in fp32."""
        return torch.float32 if self.value.ndim == 1 else torch.float16

    def array(self) -> np.ndarray:
        """The numbers as they are written.

        Raises:
            ValueError: one is too large for f16.
        """
        value = self.value.detach().float()
        if self.dtype == torch.float16 and value.abs().max() > _LARGEST:
            raise ValueError(f"{self.name} has values beyond f16's {_LARGEST:g}: this model has no f16 form")
        return (_interleaved(value, self.heads) if self.heads else value).to(self.dtype).cpu().numpy()


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, eos_token_id: int) -> None:
    """Write a language model and its tokenizer; tensors are converted one at a time.

    Args:
        model: a causal language model of transformers, of one of ARCHITECTURES.
        path: the file.
        eos_token_id: what ends a caption.

    Raises:
        ValueError: a model, an option of it or a tokenizer that llama.cpp has not, or not as it is here.
    """
    config = require_convertible(model.config)
    vocabulary = read_vocabulary(tokenizer, config.vocab_size, eos_token_id)

    import gguf  # pyright: ignore[reportMissingImports]  (an extra)

    # It tells of every tensor.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    writer = gguf.GGUFWriter(path, config.model_type)
    try:
        _add_shape(writer, config)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        _add_vocabulary(writer, vocabulary)
        # Shapes first, as the header names them all; the numbers are made one tensor at a time, behind it.
        weights = list(_weights(model, config))
        for weight in weights:
            size = weight.value.numel() * weight.dtype.itemsize
            kind = np.dtype(np.float32 if weight.dtype == torch.float32 else np.float16)
            writer.add_tensor_info(weight.name, list(weight.value.shape), kind, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for weight in weights:
            writer.write_tensor_data(weight.array())
    finally:
        writer.close()


def require_convertible(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the config if llama.cpp computes what it says in the way that transformers does.

    Raises:
        ValueError: names the option, its value and what is supported.
    """
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"a language model of type {config.model_type} cannot be written as GGUF: "
            f"{' and '.join(ARCHITECTURES)} can (Qwen2, Qwen2.5, Llama, SmolLM2)"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    for name, value, wanted in (
        ("hidden_act", config.hidden_act, "silu"),
        ("rope_type", rope, "default"),
        ("use_sliding_window", getattr(config, "use_sliding_window", False), False),
    ):
        if value != wanted:
            raise ValueError(f"a language model with {name}={value} cannot be written as GGUF: {wanted} alone can")
    return config


def _add_shape(writer: Any, config: PreTrainedConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    # Stated, as a config may have another one than the heads' share of the width.
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(width)
    writer.add_key_length(width)
    writer.add_value_length(width)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre_tokenizer)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    # A caption follows its image's rows at once.
    writer.add_add_bos_token(False)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)


def _weights(model: PreTrainedModel, config: PreTrainedConfig) -> Iterator[_Weight]:
    """Every weight under llama.cpp's name.

    Raises:
        ValueError: one that has none.
    """
    import gguf  # pyright: ignore[reportMissingImports]  (an extra)

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[config.model_type], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embedding where there is no head
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ValueError(f"{name} has no place in llama.cpp's {config.model_type}: this model cannot be written")
        part = name.split(".")[-2]
        yield _Weight(found, value, heads.get(part, 0) if config.model_type == "llama" else 0)


def _interleaved(value: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in the order in which llama.cpp's `llama` rotates them.

    Transformers rotates row i of a head with row i + half of it, llama.cpp neighbours.

    Args:
        value: [heads * width, ...].
    """
    return value.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(value.shape)
