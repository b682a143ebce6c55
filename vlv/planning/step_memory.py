"""Memory of one training step, counted on the meta device from the objective that is to train."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vlv.decoders.interface import DiffusionDecoder
from vlv.encoders.interface import VisionEncoder
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.objectives import CaptionObjective, DenoisingObjective
from vlv.planning.meta_step import peak_gib


def activations_gib(objective: DenoisingObjective | CaptionObjective, samples: int, length: int, half: bool) -> float:
    """The most GiB that live at once in a step beside weights, gradients and optimizer; the objective stays as it is.

    Args:
        samples: of a forward pass.
        length: tokens of the longest caption, in stage 2.
        half: bf16 or fp16 under autocast.
    """
    planned = on_meta(objective).train()
    for module in planned.modules():
        if isinstance(module, VisionEncoder):
            module.nested_dropout = 0.0  # it may draw a prefix, and the whole is what has to fit
        if isinstance(module, (VisionEncoder, DiffusionDecoder)):
            module.kept_results = None  # of images by their values, which there are none of
    weights = objective.loss_weights

    def loss() -> Tensor:
        sums = planned(_batch(objective.model.image_processor, samples, length))  # made here, as it counts too
        return torch.stack([sums[name] for name, weight in weights.items() if weight]).sum()

    # Layers draw their dropout, and the run must not go on with other numbers than without a plan.
    with torch.random.fork_rng(devices=[]):
        return peak_gib(planned, loss, half)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a module whose weights have shapes and dtypes alone, and take no memory."""
    known: dict[int, object] = {}
    for value in module.parameters():
        known[id(value)] = nn.Parameter(value.detach().to("meta"), value.requires_grad)
    for value in module.buffers():
        known[id(value)] = value.to("meta")
    return copy.deepcopy(module, known)


def _batch(processor: VLVImageProcessor, samples: int, length: int) -> dict[str, object]:
    """A batch of either stage, as the loader gives it, without values."""
    sides = (processor.encoder_resolution, processor.decoder_resolution)
    with torch.device("meta"):
        encoder_pixels, decoder_pixels = (torch.zeros(samples, 3, side, side, dtype=torch.uint8) for side in sides)
        ids = torch.zeros(samples, length, dtype=torch.long)
        return {
            "encoder_pixels": encoder_pixels,
            "decoder_pixels": decoder_pixels,
            "crops": torch.zeros(samples, 4, dtype=torch.long),
            "weights": torch.ones(samples),
            "positions": range(samples),
            "input_ids": ids,
            "labels": ids,
        }
