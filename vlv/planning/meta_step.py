"""One training step on the meta device: its FLOPs, and the most memory that lives at once, as on a GPU under autocast.

Nothing is computed: tensors there have shapes and dtypes alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd import backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from vlv.decoders.interface import DiffusionDecoder
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.sampling import sample_generators

_F = torch.nn.functional
# Of the functions that torch.autocast casts on a GPU, those that these models call
# (docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast").
_IN_BF16 = {
    _F.linear, _F.conv2d, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm,
    torch.baddbmm, torch.addmm, torch.einsum, _F.scaled_dot_product_attention,
}  # fmt: skip
_IN_FP32 = {
    _F.layer_norm, _F.group_norm, _F.softmax, torch.softmax, Tensor.softmax, _F.mse_loss, torch.exp, Tensor.exp,
    torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum,
}  # fmt: skip


class Autocast(TorchFunctionMode):
    """What `torch.autocast("cuda", torch.bfloat16)` casts; the meta device has none of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = torch.bfloat16 if func in _IN_BF16 else torch.float32 if func in _IN_FP32 else None
        kwargs = kwargs or {}
        if dtype is not None:
            args, kwargs = tree_map(partial(_cast, dtype), (args, kwargs))
        return func(*args, **kwargs)


def _cast(dtype: torch.dtype, value: Any) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors, those of a model's weights, buffers and gradients left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        gradients = [value.grad for value in model.parameters() if value.grad is not None]
        # Kept, so that no storage dies and leaves its id to another.
        self._own = [value.untyped_storage() for value in (*model.parameters(), *model.buffers(), *gradients)]
        self._known = {id(storage) for storage in self._own}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            weakref.finalize(storage, self._freed, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def enable_checkpointing(model: VLVAutoEncoder | DiffusionDecoder) -> None:
    """Let a model compute activations again in backward, there under `Autocast` too, which backward does not keep."""
    again: Any = partial(checkpoint, context_fn=lambda: (nullcontext(), Autocast()))
    # Frozen layers are recomputed by `vlv.frozen`, the others by the libraries' own switch.
    with patch("vlv.frozen.checkpoint", again):
        model.enable_gradient_checkpointing()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = partial(again, use_reentrant=False)  # type: ignore[assignment]


def loss_of(model: VLVAutoEncoder, batch: int) -> Tensor:
    """Stage 1's training loss of a batch, scalar, on the meta device."""
    device, processor = torch.device("meta"), model.image_processor
    sampled = model.decoder.sample_noise_and_timesteps(sample_generators(0, range(batch))).to(device)
    sides = (processor.encoder_resolution, processor.decoder_resolution)
    pixels = [torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device) for side in sides]
    return model(pixels[0], pixels[1], sampled).sum()


def count_flops(model: VLVAutoEncoder) -> tuple[float, float]:
    """TFLOP of one image, forward and backward."""
    with FlopCounterMode(display=False) as counter, Autocast():
        loss = loss_of(model, 1)
        forward = counter.get_total_flops()
        backward(loss)
    model.zero_grad(set_to_none=True)
    return forward / 1e12, (counter.get_total_flops() - forward) / 1e12


def peak_gib(model: torch.nn.Module, loss: Callable[[], Tensor], autocast: bool = True) -> float:
    """The most GiB that live at once in forward and backward of a loss, weights, buffers and gradients left out.

    Attention keeps what a card's fused kernel keeps, not the matrix that the meta device's plain one would.
    """
    # There from the start: `fixed_gib` has counted them, so those of backward must not be counted again.
    for value in model.parameters():
        value.grad = torch.zeros_like(value) if value.requires_grad else None
    with ExitStack() as stack:
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", fused_attention(autocast)))
        live = stack.enter_context(LiveBytes(model))
        stack.enter_context(Autocast() if autocast else nullcontext())
        backward(loss())
    model.zero_grad(set_to_none=True)
    return live.peak / 2**30


def fused_attention(autocast: bool) -> Callable[..., Tensor]:
    """Attention on the meta device [B, H, N, D] that keeps for backward what fused kernels do: no [N, N] matrix."""

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            result = query.new_empty(*query.shape[:-1], value.shape[-1])
            statistics = query.new_empty(query.shape[:-1], dtype=torch.float32)  # log-sum-exp of each row
            ctx.save_for_backward(query, key, value, result, statistics)
            return result

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            query, key, value, _, _ = ctx.saved_tensors
            return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        parts = query, key, value
        return Fused.apply(*(_cast(torch.bfloat16, part) for part in parts) if autocast else parts)

    return attention
