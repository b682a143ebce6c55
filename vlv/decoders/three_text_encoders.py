"""The text side of Stable Diffusion 3 and 3.5: two CLIPs, and T5 where it is there."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import BitsAndBytesConfig, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vlv.checkpoints.pretrained import load_tokenizer, load_whole
from vlv.decoders.clip import PenultimateTextConditioner
from vlv.decoders.direct import DirectConditioner, build_direct
from vlv.decoders.interface import Conditioner, Conditioning, EmbeddingSpace
from vlv.frozen import freeze
from vlv.limits import T5_ROWS

FAMILY = "stable_diffusion_3"


class ThreeTextEncodersConditioner(Conditioner):
    """Embeddings of each space pass its frozen text encoder: states [B, 2 Q, 4096] and pooled [B, 2048].

    The first Q rows are both CLIPs' states side by side, padded with zeros to T5's width; T5's rows stand below.
    Without T5, `T5_ROWS` of zeros stand there, as in the pipeline: the denoiser's bias makes them act.
    """

    def __init__(
        self,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        text_encoder_3: T5EncoderModel | None,
        width: int,
    ) -> None:
        """Freeze and hold the text encoders.

        Args:
            width: of the states, the transformer's `joint_attention_dim`.
        """
        super().__init__()
        self.clip_l = PenultimateTextConditioner(text_encoder)
        self.clip_g = PenultimateTextConditioner(text_encoder_2)
        self.t5: Any = None if text_encoder_3 is None else freeze(text_encoder_3)
        self._width = width
        # transformers asks a model's children for theirs, so that a captioner's file holds T5's table once.
        tied = {} if text_encoder_3 is None else text_encoder_3.all_tied_weights_keys
        self.all_tied_weights_keys = {f"t5.{name}": f"t5.{other}" for name, other in tied.items()}

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        texts = {"clip_l": self.clip_l, "clip_g": self.clip_g}
        clips = tuple(EmbeddingSpace(name, text.width, text.max_length) for name, text in texts.items())
        return clips if self.t5 is None else (*clips, EmbeddingSpace("t5", self.t5.config.d_model, T5_ROWS))

    @property
    def width(self) -> int:
        return self._width

    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        left, pooled_left = self.clip_l(embeddings["clip_l"], pooled_at)
        right, pooled_right = self.clip_g(embeddings["clip_g"], pooled_at)
        below = None
        if self.t5 is not None:
            # No attention mask anywhere, as in the pipeline: padding is attended.
            with in_own_dtype(embeddings["t5"]):
                below = self.t5(inputs_embeds=embeddings["t5"].to(self.t5.dtype)).last_hidden_state
        pooled = torch.cat([pooled_left, pooled_right], dim=-1)
        return Conditioning(self.join(torch.cat([left, right], dim=-1), below), pooled)

    def num_prefix_tokens(self, queries: int) -> int:
        return queries if self.t5 is None else 2 * queries

    def prefix_states(self, states: Tensor) -> Tensor:
        return states if self.t5 is not None else states[:, :-T5_ROWS]  # the rest are zeros

    def join(self, clips: Tensor, below: Tensor | None) -> Tensor:
        """States of both CLIPs [B, Q, 2048] with T5's rows below [B, L, 4096]; None is zeros."""
        clips = F.pad(clips, (0, self.width - clips.shape[-1]))
        if below is None:
            below = clips.new_zeros(len(clips), T5_ROWS, self.width)
        return torch.cat([clips, below.to(clips)], dim=1)  # T5 in 8 bit sits on its GPU from the start

    @torch.no_grad()
    def encode_empty_t5(self, rows: int) -> Tensor:
        """T5's states of the empty prompt, [1, rows, 4096]: its end token and padding."""
        ids = torch.full((1, rows), self.t5.config.pad_token_id, device=self.t5.device)
        ids[:, 0] = self.t5.config.eos_token_id
        return self.t5(input_ids=ids).last_hidden_state

    def to_dict(self) -> dict[str, Any]:
        return {
            "family": FAMILY,
            "conditioning": "text_encoder" if self.t5 is not None else "clip",
            "text_encoder": self.clip_l.text_encoder.config.to_dict(),
            "text_encoder_2": self.clip_g.text_encoder.config.to_dict(),
            "text_encoder_3": None if self.t5 is None else self.t5.config.to_dict(),
            "width": self.width,
        }


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype, t5_dtype: str | None = None) -> Conditioner:
    """The conditioner of a diffusers SD3 folder; `conditioning` is text_encoder, clip (without T5) or direct."""
    if conditioning == "direct":
        return load_direct(folder)
    clips = [
        load_whole(CLIPTextModelWithProjection.from_pretrained, folder / name, dtype=dtype)
        for name in ("text_encoder", "text_encoder_2")
    ]
    t5 = None
    if conditioning == "text_encoder" and has_t5(folder):
        t5 = _load_t5(folder / "text_encoder_3", dtype, t5_dtype)
    return ThreeTextEncodersConditioner(clips[0], clips[1], t5, transformer_config(folder)["joint_attention_dim"])


def build_conditioner(description: dict[str, Any]) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    dtype = torch.get_default_dtype()
    clips = [
        CLIPTextModelWithProjection._from_config(CLIPTextConfig(**description[name]), dtype=dtype)
        for name in ("text_encoder", "text_encoder_2")
    ]
    third = description["text_encoder_3"]
    t5 = None if third is None else T5EncoderModel._from_config(T5Config(**third), dtype=dtype)
    return ThreeTextEncodersConditioner(clips[0], clips[1], t5, description["width"])


def _load_t5(folder: Path, dtype: torch.dtype, t5_dtype: str | None) -> T5EncoderModel:
    """T5 in `dtype`, or kept in bf16 or 8 bit whatever the rest is cast to.

    Raises:
        ValueError: int8 without bitsandbytes.
    """
    if t5_dtype is None:
        return load_whole(T5EncoderModel.from_pretrained, folder, dtype=dtype)
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if t5_dtype == "int8":
        if find_spec("bitsandbytes") is None:
            raise ValueError("t5_dtype=int8 needs bitsandbytes: pip install bitsandbytes, or set t5_dtype=bf16")
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        options["device_map"] = {"": f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"}
    t5: Any = load_whole(T5EncoderModel.from_pretrained, folder, **options)
    t5.kept_dtype = torch.bfloat16
    return t5


def in_own_dtype(tensor: Tensor) -> AbstractContextManager[Any]:
    """T5 computes in its weights' formats, as in the pipeline: autocast would undo the fp32 that fp16 needs."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def transformer_config(folder: Path) -> dict[str, Any]:
    config: Any = SD3Transformer2DModel.load_config(folder, subfolder="transformer")
    return config


def has_t5(folder: Path) -> bool:
    """Whether the folder brings T5; many leave it out, as the pipeline allows."""
    return (folder / "text_encoder_3" / "config.json").is_file()


def load_direct(folder: Path) -> DirectConditioner:
    config = transformer_config(folder)
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
    rows = text.max_position_embeddings + T5_ROWS
    return DirectConditioner(FAMILY, config["joint_attention_dim"], rows, pooled_width=config["pooled_projection_dim"])


@torch.no_grad()
def encode_empty_prompt(folder: Path, texts: ThreeTextEncodersConditioner) -> Conditioning:
    """The encoded empty prompt, [1, 77 + T5_ROWS, 4096] and [1, 2048]."""
    tokenizers = [load_tokenizer(folder / name, "stable_diffusion_model_path") for name in ("tokenizer", "tokenizer_2")]
    left, pooled_left = texts.clip_l.encode_empty_prompt(tokenizers[0])
    right, pooled_right = texts.clip_g.encode_empty_prompt(tokenizers[1])
    below = None if texts.t5 is None else texts.encode_empty_t5(T5_ROWS)
    states = texts.join(torch.cat([left, right], dim=-1), below)
    pooled: Any = (pooled_left, pooled_right)  # neither is None: both CLIPs have a projection
    return Conditioning(states, torch.cat(pooled, dim=-1))
