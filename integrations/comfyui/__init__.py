"""Nodes of ComfyUI for VLV: captions of images, and pictures from their embeddings.

Put this folder, or a link to it, into ComfyUI/custom_nodes/ as `vlv`, and install the package into ComfyUI's Python:
`pip install -e .` in the clone. Everything is the package's; here are its calls alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_MOST_SEED = 2**63 - 1


def _pictures(images: Tensor) -> list[Image.Image]:
    """PIL images of ComfyUI's [B, H, W, 3], float of 0 to 1."""
    pixels = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def _placed(model: Any) -> Any:
    """The model on ComfyUI's device."""
    try:
        from comfy.model_management import get_torch_device  # pyright: ignore[reportMissingImports]

        device = get_torch_device()
    except ImportError:  # outside ComfyUI, in a test
        device = torch.device("cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return model.set_dtypes(dtype, dtype).to(device)


class LoadCaptioner:
    """Load a captioner's folder once."""

    RETURN_TYPES = ("VLV_CAPTIONER",)
    FUNCTION = "load"
    CATEGORY = "VLV"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """The folder, or a hub id."""
        return {"required": {"folder": ("STRING", {"default": "outputs/Stage2_Training/final"})}}

    def load(self, folder: str) -> tuple[Any]:
        """The captioner."""
        from vlv import VLVCaptioner

        return (_placed(VLVCaptioner.from_pretrained(folder)),)


class Caption:
    """A caption of each image; with a temperature it is sampled by the seed."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("captions",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "caption"
    CATEGORY = "VLV"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Images and how captions are searched for."""
        return {
            "required": {
                "captioner": ("VLV_CAPTIONER",),
                "images": ("IMAGE",),
                "num_beams": ("INT", {"default": 4, "min": 1, "max": 16}),
                "max_new_tokens": ("INT", {"default": 300, "min": 1, "max": 2048}),
                "temperature": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 2.0, "step": 0.05}),
                "seed": ("INT", {"default": 0, "min": 0, "max": _MOST_SEED}),
                "prefix": ("STRING", {"default": ""}),
            }
        }

    def caption(
        self, captioner: Any, images: Tensor, num_beams: int, max_new_tokens: int, temperature: float, seed: int,
        prefix: str,
    ) -> tuple[list[str]]:  # fmt: skip
        """Captions of images [B, H, W, 3]."""
        pictures = _pictures(images)
        if not temperature:
            found = captioner.caption(pictures, num_beams, max_new_tokens)
        else:
            from vlv.sampling import mix_seed

            pixels = captioner.image_processor.batch(pictures)["encoder_pixels"]
            seeds = [[mix_seed(seed, number)] for number in range(len(pictures))]
            found = [own[0] for own in captioner.sample_pixels(pixels, seeds, temperature, max_new_tokens)]
        return ([prefix + text for text in found],)


class LoadAutoEncoder:
    """Load a stage-1 model's folder once."""

    RETURN_TYPES = ("VLV_STAGE1",)
    FUNCTION = "load"
    CATEGORY = "VLV"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The folder."""
        return {"required": {"folder": ("STRING", {"default": "outputs/Stage1_Training/final"})}}

    def load(self, folder: str) -> tuple[Any]:
        """The model, with its diffusion decoder."""
        from vlv import VLVAutoEncoder

        return (_placed(VLVAutoEncoder.from_pretrained(folder)),)


class Reconstruct:
    """What the frozen decoder draws from an image's embeddings."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "reconstruct"
    CATEGORY = "VLV"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """Images and how pictures are drawn."""
        return {
            "required": {
                "stage1": ("VLV_STAGE1",),
                "images": ("IMAGE",),
                "guidance_scale": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 20.0, "step": 0.1}),
                "num_inference_steps": ("INT", {"default": 50, "min": 1, "max": 1000}),
                "seed": ("INT", {"default": 42, "min": 0, "max": _MOST_SEED}),
            }
        }

    def reconstruct(
        self, stage1: Any, images: Tensor, guidance_scale: float, num_inference_steps: int, seed: int
    ) -> tuple[Tensor]:
        """Pictures [B, R, R, 3], float of 0 to 1, of images [B, H, W, 3]."""
        drawn = stage1.reconstruct(_pictures(images), guidance_scale, num_inference_steps, seed)
        return (torch.from_numpy(np.stack([np.array(picture) for picture in drawn])).float() / 255,)


NODE_CLASS_MAPPINGS = {
    "VLVLoadCaptioner": LoadCaptioner,
    "VLVCaption": Caption,
    "VLVLoadAutoEncoder": LoadAutoEncoder,
    "VLVReconstruct": Reconstruct,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "VLVLoadCaptioner": "Load VLV captioner",
    "VLVCaption": "VLV caption",
    "VLVLoadAutoEncoder": "Load VLV stage 1",
    "VLVReconstruct": "VLV reconstruct",
}
