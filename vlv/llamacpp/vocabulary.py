"""A tokenizer as GGUF has it: byte-level BPE, whose pre-tokenizer llama.cpp knows by a name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

# GGUF's `tokenizer.ggml.token_type`.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's names, and what tokenizer.json has for them.
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False},
        {**_BYTES, "use_regex": False},
    ],
    "smollm": [{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}],
    "gpt-2": [{**_BYTES, "use_regex": True}],
}


@dataclass(frozen=True)
class Vocabulary:
    """What GGUF keeps of a tokenizer.

    tokens, types: one for each row of the embedding; rows without a token are unused ones.
    merges: pairs with a blank between, in order. pre_tokenizer: llama.cpp's name.
    special: ids of the tokens that have a part: bos, eos, pad.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre_tokenizer: str
    special: dict[str, int]


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, eos_token_id: int) -> Vocabulary:
    """What GGUF keeps of a tokenizer.

    Args:
        rows: of the language model's embedding.
        eos_token_id: what ends a caption.

    Raises:
        ValueError: another kind of tokenizer, or one with more tokens than rows.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    kind = (content.get("model") or {}).get("type", type(tokenizer).__name__)
    if kind != "BPE":
        raise ValueError(f"a tokenizer of type {kind} cannot be written as GGUF: byte-level BPE alone can")
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens for {rows} rows of the embedding: no GGUF has that"
        )
    # An embedding is often padded to a round number of rows, as Qwen's is; each needs a name of its own.
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {item["id"]: CONTROL if item["special"] else USER_DEFINED for item in content["added_tokens"]}
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"])
    # Without one llama.cpp takes a token of GPT-2's for the beginning; nothing is put in front either way.
    first = eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    special = {"bos": first, "eos": eos_token_id, "pad": tokenizer.pad_token_id}
    return Vocabulary(
        tokens=[by_id.get(number, f"[PAD{number}]") for number in range(rows)],
        types=[added.get(number, NORMAL) if number in by_id else UNUSED for number in range(rows)],
        merges=list(merges),
        pre_tokenizer=_pre_tokenizer(content["pre_tokenizer"]),
        special={name: number for name, number in special.items() if number is not None},
    )


def _pre_tokenizer(content: dict[str, Any] | None) -> str:
    """llama.cpp's name of a pre-tokenizer, as tokenizer.json has it.

    Raises:
        ValueError: it is none of those that are known here.
    """
    parts = (content or {}).get("pretokenizers", [content or {}])
    # trim_offsets tells where a token stood, and changes no token.
    found = [{key: value for key, value in part.items() if key != "trim_offsets"} for part in parts]
    for name, wanted in PRE_TOKENIZERS.items():
        if found == wanted:
            return name
    steps = ", ".join(str(part.get("type")) for part in found)
    raise ValueError(f"a tokenizer with the pre-tokenizer {steps} cannot be written as GGUF: those of Qwen2, SmolLM2 "
                     "and GPT-2 can")  # fmt: skip
