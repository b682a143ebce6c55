"""Freezing: what does not train stays in eval mode whatever mode `.train()` sets."""

from __future__ import annotations

from functools import partial
from typing import Self, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

ModuleType = TypeVar("ModuleType", bound=nn.Module)


class FrozenStaysEval(nn.Module):
    """Mixin of every composite model: `.train()` sets the mode only of parts that hold a trained parameter.

    Otherwise `.train()` on the whole would switch on dropout and drop-path inside the frozen parts.
    """

    def train(self, mode: bool = True) -> Self:
        """Set the mode; modules whose parameters are all frozen stay in eval mode."""
        super().train(mode)
        if mode:
            _eval_frozen(self)
        return self


def freeze(module: ModuleType) -> ModuleType:
    """Put a module in eval mode, without gradients for its own parameters; gradients still pass through."""
    return module.eval().requires_grad_(False)


def is_frozen(module: nn.Module) -> bool:
    """Whether none of the module's parameters trains."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def checkpoint_trained_layers(model: PreTrainedModel) -> None:
    """Recompute the activations of every layer in training mode in backward, by transformers' own switch."""
    # Its name until 5.23 warns in later ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def checkpoint_frozen_layers(module: nn.Module) -> None:
    """Recompute the activations of every frozen layer of a transformers model in backward.

    Gradients pass through frozen layers too, and transformers checkpoints only layers in training mode, which
    frozen ones never are.
    """
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer) and is_frozen(layer):
            # Not reentrant: that variant takes no keyword arguments, and layers are called with some.
            forward = partial(checkpoint, layer.forward, use_reentrant=False)
            layer.forward = forward  # type: ignore[method-assign]


def keep_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Mark a part that keeps a dtype of its own, whatever the model that holds it is cast to."""
    module.kept_dtype = dtype  # type: ignore[assignment]  # a plain attribute, no parameter


def kept_dtypes(model: nn.Module) -> list[tuple[nn.Module, torch.dtype]]:
    """The parts that keep a dtype of their own whatever the rest is cast to: `kept_dtype` on their module."""
    found = ((module, getattr(module, "kept_dtype", None)) for module in model.modules())
    return [(module, dtype) for module, dtype in found if dtype is not None]


def restore_dtypes(model: nn.Module) -> None:
    """Bring back what keeps a dtype of its own, after a library that casts a whole model (DeepSpeed)."""
    for module, dtype in kept_dtypes(model):
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.data = value.data.to(dtype)


def set_dtypes(model: nn.Module, compute_dtype: torch.dtype, param_dtype: torch.dtype) -> None:
    """Cast trained parameters to `param_dtype` and frozen ones to `compute_dtype`, in place.

    A part that keeps a dtype of its own (`kept_dtypes`) gets that one: a VAE overflows in fp16. So do, in fp16, the
    layers that transformers keeps in fp32 then (T5's). Weights that are integers (8 bit) stay as they are.
    """
    parts = kept_dtypes(model)
    if compute_dtype == torch.float16:
        parts = [*((module, torch.float32) for module in _overflowing_in_fp16(model)), *parts]
    kept = {id(parameter): dtype for module, dtype in parts for parameter in module.parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            dtype = param_dtype if parameter.requires_grad else compute_dtype
            parameter.data = parameter.data.to(kept.get(id(parameter), dtype))


def _overflowing_in_fp16(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers loads in fp32 where the rest is fp16."""
    return [
        layer
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
        for name, layer in part.named_modules()
        if name.rpartition(".")[-1] in (part._keep_in_fp32_modules or ())
    ]


def _eval_frozen(module: nn.Module) -> bool:
    """Put every wholly frozen subtree in eval mode; returns whether this one holds a trained parameter."""
    trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    children = [(child, _eval_frozen(child)) for child in module.children()]
    trained = trained or any(awake for _, awake in children)
    # A dropout module has no parameter: it follows the part that it lies in.
    if not trained and any(True for _ in module.parameters()):
        module.eval()
    return trained
