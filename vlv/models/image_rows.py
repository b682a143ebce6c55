"""An image as the rows that a language model reads before its caption: what a captioner is without that model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from vlv.checkpoints.pretrained import is_weight, require_same_names, resolve_checkpoint
from vlv.decoders import Conditioner, build_conditioner
from vlv.decoders.interface import Conditioning
from vlv.encoders import VisionEncoder, encoder_from_config
from vlv.frozen import is_frozen, set_dtypes
from vlv.models.adapter import captioner_weights
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.projector import Projector

LANGUAGE_MODEL = "llm."  # what the names of its weights begin with in a captioner
VISION_BASES = ("decoder", "florence2")  # the bases that hold the rest of an adapter's weights


class ReadsImages:
    """What a captioner does with images before its language model; a mixin of modules with these parts."""

    encoder: VisionEncoder
    conditioner: Conditioner
    mlp: Projector
    image_processor: VLVImageProcessor
    compute_dtype: torch.dtype

    @property
    def num_image_tokens(self) -> int:
        """Rows of an image that the language model reads, Q."""
        used = None if self.encoder.training else self.encoder.first_queries
        return self.conditioner.num_prefix_tokens(self.encoder.num_queries if used is None else used)

    def embed(self, encoder_pixels: Tensor) -> Conditioning:
        """Conditioning ([B, Q, D] states) of uint8 encoder pixels [B, 3, E, E], or of decoder pixels [B, 3, R, R]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen(self.encoder)):
            return self.conditioner(self.encoder(self.image_processor.encoder_view(encoder_pixels)))

    def prefix(self, conditioning: Conditioning) -> Tensor:
        """What the language model reads before the caption, [B, Q, H], of states [B, Q, D]."""
        return self.mlp(self.conditioner.prefix_states(conditioning.states))

    def rows_of(self, images: Tensor) -> Tensor:
        """`prefix` of uint8 encoder pixels [B, 3, E, E]; rows [B, Q, H] that `image_rows` gave before stay.

        Raises:
            ValueError: neither of both, as an image without its batch.
        """
        if images.ndim == 4:
            return self.prefix(self.embed(images))
        rows = (self.num_image_tokens, self.mlp.out_width)
        if images.ndim != 3 or images.shape[1:] != rows or not images.is_floating_point():
            raise ValueError(
                f"images of shape {tuple(images.shape)} and {images.dtype} are neither uint8 pixels [N, 3, E, E] nor "
                f"rows [N, {rows[0]}, {rows[1]}] of image_rows"
            )
        return images

    @torch.no_grad()
    def image_rows(self, images: Tensor) -> Tensor:
        """`rows_of` images, [B, Q, H], on the device and in the format of inference."""
        with self.autocast():
            return self.rows_of(images.to(next(self.mlp.parameters()).device))

    def autocast(self) -> torch.autocast:
        """What inference computes in: `compute_dtype`, on the device of the weights."""
        device = next(self.mlp.parameters()).device
        return torch.autocast(device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)


class ImageRows(ReadsImages, nn.Module):
    """A captioner's encoder, conditioner and projector, for a language model that runs elsewhere; it does not train.

    Shapes: B images, E encoder pixels, Q rows, H width of the language model.
    """

    def __init__(self, config: VLVCaptionerConfig, image_processor: VLVImageProcessor) -> None:
        """Build from a captioner's config, without its weights."""
        super().__init__()
        assert isinstance(config.encoder_config, PreTrainedConfig)
        self.image_processor = image_processor
        self.encoder = encoder_from_config(config.encoder_config)
        self.conditioner = build_conditioner(config.conditioner or {})
        self.mlp = Projector(self.conditioner.width, config.text_config.hidden_size)
        self.compute_dtype = torch.float32
        self.eval().requires_grad_(False)

    def take(self, weights: Mapping[str, Tensor], source: Path) -> ImageRows:
        """Take the weights of a captioner from `source`, by their names there; the language model's are left out.

        Raises:
            CheckpointError: one is missing, or has no place.
        """
        own = {name: weights[name] for name in weights if not name.startswith(LANGUAGE_MODEL) and is_weight(name)}
        unexpected = self.load_state_dict(own, strict=False).unexpected_keys
        places = self.state_dict(keep_vars=True)
        filled = {id(places[name]) for name in own if name in places}  # by one name of several, where tied
        missing = [name for name, value in places.items() if id(value) not in filled]
        require_same_names(source, sorted(missing), sorted(unexpected))
        return self

    def set_dtype(self, dtype: torch.dtype) -> ImageRows:
        """The number format of weights and computation, as of `VLVForConditionalGeneration.set_dtypes`."""
        set_dtypes(self, dtype, dtype)
        self.compute_dtype = dtype
        return self

    def forward(self, encoder_pixels: Tensor) -> Tensor:
        """The rows [B, Q, H] of uint8 encoder pixels [B, 3, E, E]."""
        return self.image_rows(encoder_pixels)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, stable_diffusion: str | None = None, florence2: str | None = None
    ) -> ImageRows:
        """Load them from a captioner's folder or hub id, in fp32.

        Args:
            stable_diffusion, florence2: paths of an adapter's bases, if they have moved.

        Raises:
            ValueError: as of `VLVForConditionalGeneration.from_pretrained`.
        """
        path = resolve_checkpoint(folder, "stage2", {})
        config = VLVCaptionerConfig.from_pretrained(path)
        moved = {"decoder": stable_diffusion, "florence2": florence2}
        weights = captioner_weights(path, config.origin or {}, VISION_BASES, moved)
        return cls(config, VLVImageProcessor.from_pretrained(path)).take(weights, path)
