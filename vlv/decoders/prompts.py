"""Texts become conditioning by a decoder's own text encoders, as the family's pipeline encodes a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from vlv.checkpoints.pretrained import load_tokenizer
from vlv.decoders.interface import Conditioner, Conditioning


class PromptEncoder:
    """Looks the tokens of prompts up in each text encoder's table, and passes them through the frozen conditioner.

    A prompt fills every row that the text encoders have, with padding or cut off, as in diffusers' pipelines.
    """

    def __init__(self, folder: Path, conditioner: Conditioner) -> None:
        """Load the tokenizers; the text encoders are the conditioner's own.

        Args:
            folder: the decoder's, in diffusers' layout.

        Raises:
            ValueError: the conditioner has no text encoders (`conditioning=direct`), or a tokenizer is missing.
        """
        self._conditioner = conditioner
        self._tables = conditioner.token_tables()
        if not self._tables:
            raise ValueError("this model was trained with conditioning=direct: it has no text encoder to read a prompt")
        self._tokenizers = {
            space: load_tokenizer(folder / name, "stable_diffusion_model_path")
            for space, (name, _) in self._tables.items()
        }
        self._rows = {space.name: space.max_length for space in conditioner.spaces}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning ([B, rows, D] states) of B prompts."""
        embeddings: dict[str, Tensor] = {}
        ends: Tensor | None = None
        # Not by the text encoders' own `forward`: the conditioner passes embeddings through all of them already.
        for space, (_, table) in self._tables.items():
            tokenizer = self._tokenizers[space]
            found = tokenizer(
                list(prompts), padding="max_length", max_length=self._rows[space], truncation=True, return_tensors="pt"
            )
            ids = cast(Tensor, found["input_ids"])  # [B, rows]
            if ends is None:  # the CLIPs come first, and agree in where a prompt ends
                ends = torch.eq(ids, cast(int, tokenizer.eos_token_id)).int().argmax(1)
            weight = cast(Tensor, table.weight)
            embeddings[space] = table(ids.to(weight.device))
        return self._conditioner(embeddings, ends)

    def cuts(self, prompt: str) -> bool:
        """Whether a prompt has more tokens than fit, so that its end is not read."""
        return any(
            len(cast("list[int]", self._tokenizers[space](prompt)["input_ids"])) > self._rows[space]
            for space in self._tables
        )
