"""What each decoder costs at full size, counted without weights on the meta device, as a Markdown table.

For stage 1 with Florence-2-large and 77 queries, in bf16 (the VAE and what trains in fp32): parameters, TFLOP of one
image, activations that backward keeps, and the micro-batch that a card should take.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from scripts.entry import BAD_CALL, stop

COMPONENTS = Path(__file__).resolve().parents[1] / "configs" / "components"
DECODERS = (
    "stable-diffusion-v1-5",
    "stable-diffusion-2-1-base",
    "stable-diffusion-2-1",
    "stable-diffusion-xl-base-1.0",
    "stable-diffusion-3.5-medium",
    "stable-diffusion-3.5-large",
)
PROMPT_IDS = [0, 47066, 21700, 19, 10, 17818, 99, 16, 2343, 11, 5, 2274, 4, 2]  # "<MORE_DETAILED_CAPTION>", spelled out
ENCODER_RESOLUTION = 768
USABLE = 0.9  # of a card's memory; the rest is the allocator's and the libraries'
HEAD = ("decoder", "px", "conditioning", "frozen, B", "trained, M", "forward, TFLOP", "backward, TFLOP", "fixed, GiB",
        "activations, GiB an image", "checkpointed", "micro-batch", "checkpointed")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.plan_decoders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--resolution", type=int, default=384, help="of the decoder, in pixels (default 384)")
    parser.add_argument("--memory", type=float, default=80.0, help="of the card, in GB (default 80)")
    parser.add_argument("--decoder", action="append", choices=DECODERS, help="this one alone; repeatable")
    options = parser.parse_args(arguments)
    try:
        print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
        for name in options.decoder or DECODERS:
            three = name.startswith("stable-diffusion-3")
            for conditioning in ("text_encoder", "clip", "direct") if three else ("text_encoder", "direct"):
                print(
                    "| " + " | ".join(plan(name, conditioning, options.resolution, options.memory)) + " |", flush=True
                )
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def plan(name: str, conditioning: str, resolution: int, memory_gb: float) -> list[str]:
    """One row of the table."""
    from scripts.dry_run import parameter_counts

    model = build(COMPONENTS / name, conditioning, resolution)
    trained, frozen = parameter_counts(model)
    weights = fixed_gib(model)
    forward, backward = count_flops(model)
    activations = gib_an_image(model)
    model.enable_gradient_checkpointing()
    checkpointed = gib_an_image(model)
    room = USABLE * memory_gb * 1e9 / 2**30 - weights
    fits = [str(max(0, int(room / size))) for size in (activations, checkpointed)]
    sizes = f"{frozen / 1e9:.2f}", f"{trained / 1e6:.0f}", f"{forward:.2f}", f"{backward:.2f}", f"{weights:.1f}"
    return [name, str(resolution), conditioning, *sizes, f"{activations:.2f}", f"{checkpointed:.2f}", *fits]


def build(folder: Path, conditioning: str, resolution: int, device: str = "meta") -> Any:
    """Stage 1's model in fp32, without weights on the meta device, with random ones on another."""
    import torch
    from transformers import Florence2Config

    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.decoders import load_skeleton
    from vlv.models.encoder import VLVEncoder, VLVEncoderConfig
    from vlv.models.image_processor import VLVImageProcessor

    decoder = load_skeleton(folder, conditioning, resolution, device)
    config = VLVEncoderConfig(
        florence2_config=Florence2Config.from_pretrained(COMPONENTS / "Florence-2-large").to_dict(),
        spaces={space.name: space.width for space in decoder.conditioner.spaces},
        num_queries=77,
        prompt_ids=PROMPT_IDS,
    )
    with torch.device(device):
        encoder = VLVEncoder(config)
    return VLVAutoEncoder(encoder, decoder, VLVImageProcessor(resolution, ENCODER_RESOLUTION), {}, conditioning)


def fixed_gib(model: Any) -> float:
    """GiB of weights, gradients and optimizer in bf16 (the VAE and what trains in fp32).

    The model is ready to be counted then: the meta device has no autocast, so what trains is cast for good, which
    computes in the same format.
    """
    import torch

    from scripts.dry_run import memory_estimate

    model.set_dtypes(torch.bfloat16, torch.float32)
    gib = sum(memory_estimate(model).values())
    model.set_dtypes(torch.bfloat16, torch.bfloat16)
    model.encoder.to(torch.bfloat16)  # its buffers too
    return gib


def gib_an_image(model: Any) -> float:
    """GiB of activations that one more image takes, of a model that `fixed_gib` has cast."""
    return kept_gib(model, 2) - kept_gib(model, 1)


def loss_of(model: Any, batch: int) -> Any:
    """The training loss of a batch, scalar, on the meta device."""
    from unittest.mock import patch

    import torch

    from vlv.sampling import sample_generators

    device, processor = torch.device("meta"), model.image_processor
    draws = model.decoder.sample_draws(sample_generators(0, range(batch))).to(device)
    sides = (processor.encoder_resolution, processor.decoder_resolution)
    pixels = [torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device) for side in sides]
    # transformers asks of a mask of ones whether it is one, which a tensor without values cannot say.
    with patch("transformers.masking_utils.fast_all", return_value=True):
        return model(pixels[0], pixels[1], draws).sum()


def count_flops(model: Any) -> tuple[float, float]:
    """TFLOP of one image, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss = loss_of(model, 1)
        forward = counter.get_total_flops()
        loss.backward()
    model.zero_grad(set_to_none=True)
    return forward / 1e12, (counter.get_total_flops() - forward) / 1e12


class Kept:
    """Storages that backward would find, parameters left out, each once; held, so that none takes another's place."""

    def __init__(self, model: Any) -> None:
        self.own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self.storages: dict[int, Any] = {}

    def keep(self, tensor: Any) -> Any:
        """Count a tensor."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.own:
            self.storages[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(storage.nbytes() for storage in self.storages.values())


def kept_gib(model: Any, batch: int) -> float:
    """GiB of the tensors that backward needs of the forward pass.

    Attention keeps what a card's fused kernel keeps, not the matrix that the meta device's plain one would. Of blocks
    whose activations are computed again, their inputs are kept, and at any time the whole of one block: the largest.
    """
    from unittest.mock import patch

    import torch
    from torch.autograd.graph import saved_tensors_hooks

    kept, blocks = Kept(model), [0]

    def recomputed(block: Any, *inputs: Any, **_: Any) -> Any:
        for value in inputs:
            if isinstance(value, torch.Tensor):
                kept.keep(value)
        inside = Kept(model)
        with saved_tensors_hooks(inside.keep, lambda tensor: tensor):
            result = block(*inputs)
        blocks.append(inside.bytes)
        return result

    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = recomputed
    fused = patch("torch.nn.functional.scaled_dot_product_attention", fused_attention())
    with fused, saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        loss_of(model, batch)
    return (kept.bytes + max(blocks)) / 2**30


def fused_attention() -> Any:
    """Attention on the meta device [B, H, N, D] that keeps for backward what fused kernels do: no [N, N] matrix."""
    import torch

    class Fused(torch.autograd.Function):  # forward alone: counting ends before backward
        @staticmethod
        def forward(context: Any, query: Any, key: Any, value: Any) -> Any:
            result = query.new_empty(*query.shape[:-1], value.shape[-1])
            statistics = query.new_empty(query.shape[:-1], dtype=torch.float32)  # log-sum-exp of each row
            context.save_for_backward(query, key, value, result, statistics)
            return result

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return Fused.apply(query, key, value)

    return attention


if __name__ == "__main__":
    main(sys.argv[1:])
