"""The parts of a decoder's folder, each made in one way: from its weights, or from its config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from diffusers import AutoencoderKL, SchedulerMixin, SD3Transformer2DModel, UNet2DConditionModel
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vlv.checkpoints.pretrained import load_tokenizer, load_whole
from vlv.decoders.layout import DecoderLayout
from vlv.decoders.settings import DecoderSettings
from vlv.frozen import set_dtypes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TextModel = TypeVar("TextModel", bound=PreTrainedModel)
LatentModel = TypeVar("LatentModel", AutoencoderKL, UNet2DConditionModel, SD3Transformer2DModel)
Scheduler = TypeVar("Scheduler", bound=SchedulerMixin)


class DecoderParts:
    """Makes the parts of a folder; `build` of a family says which.

    With weights they lie on the CPU. Without, names and shapes alone are there (`meta`), or random weights on another
    device: what a plan, a measurement and the import of a checkpoint need.
    """

    def __init__(self, layout: DecoderLayout, settings: DecoderSettings, device: str | None = None) -> None:
        """Hold what the parts are made from.

        Args:
            device: None reads the weights; a device makes the parts there without reading any.
        """
        self.layout = layout
        self.settings = settings
        self.device = device
        self.dtype = DTYPES[settings.dtype]

    def text_encoder(self, name: str, kind: type[TextModel], **options: Any) -> TextModel:
        """A text encoder of transformers, in fp32 unless `options` give a `dtype`; `options` are of `from_pretrained`.

        In fp32 because it encodes the empty prompt first, whose states are kept in fp32; `cast` comes after.
        """
        if self.device is not None:
            assert kind.config_class is not None
            config = kind.config_class.from_pretrained(self.layout.folder, subfolder=name)
            with torch.device(self.device):
                # Not by the constructor: that leaves the attention implementation unset.
                return kind._from_config(config)
        options = {"dtype": torch.float32, "variant": self.layout.variant(name), **options}
        return load_whole(kind.from_pretrained, self.layout.folder / name, **options)

    def latent_model(self, name: str, kind: type[LatentModel], dtype: torch.dtype) -> LatentModel:
        """A denoiser or VAE of diffusers, loaded straight in a number format: no process holds it in fp32 first."""
        if self.device is not None:
            config = kind.load_config(self.layout.folder, subfolder=name)
            with torch.device(self.device):
                return cast(LatentModel, kind.from_config(cast("dict[str, Any]", config)))
        folder, variant = self.layout.folder / name, self.layout.variant(name)
        model = load_whole(kind.from_pretrained, folder, torch_dtype=dtype, variant=variant)
        if dtype != torch.float32:  # else nothing was rounded
            _restore_buffers(model, folder, variant)
        return model

    def scheduler(self, kind: type[Scheduler], **changes: Any) -> Scheduler:
        """The training schedule: the shipped scheduler's settings in a class of diffusers, with changes."""
        return cast(Scheduler, kind.from_pretrained(self.layout.folder, subfolder="scheduler", **changes))

    def tokenizer(self, name: str) -> PreTrainedTokenizerBase:
        """A tokenizer of the folder."""
        return load_tokenizer(self.layout.folder / name, "stable_diffusion_model_path")

    def cast(self, module: nn.Module) -> None:
        """Cast a frozen module's weights to the settings' format; what keeps a format of its own stays."""
        set_dtypes(module, self.dtype, self.dtype)


def _restore_buffers(model: nn.Module, folder: Path, variant: str | None) -> None:
    """Take buffers in fp32 from the files: `from_pretrained` casts them too, and casting a model's weights does not.

    Stable Diffusion 3's table of positions is one; rounded to bf16 it would change every image.
    """
    wanted = {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    # One variant's files alone: both may lie here, and the other's values are not those that were loaded.
    files = [path for path in folder.glob("*.safetensors") if (variant is not None) == (".fp16" in path.name)]
    for path in files if wanted else []:
        with safe_open(path, framework="pt") as weights:
            for name in wanted.keys() & set(weights.keys()):
                wanted[name].data = weights.get_tensor(name).float()
