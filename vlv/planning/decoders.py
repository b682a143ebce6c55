"""What each decoder costs at full size, counted without weights on the meta device, as a Markdown table.

For stage 1 with Florence-2-large and 77 queries, in bf16 (the VAE and what trains in fp32): parameters, TFLOP of one
image, memory that a step takes whatever its batch and for each image, and the micro-batch that a card should take.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vlv.cli.entry import BAD_CALL, stop
from vlv.decoders.settings import ConditioningKind

COMPONENTS = Path(__file__).resolve().parents[2] / "configs" / "components"
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
        "GiB an image", "checkpointed", "micro-batch", "checkpointed")  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m vlv.planning.decoders",
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
            kinds: tuple[ConditioningKind, ...] = ("text_encoder", "direct")
            for conditioning in ("text_encoder", "clip", "direct") if three else kinds:
                print(
                    "| " + " | ".join(plan(name, conditioning, options.resolution, options.memory)) + " |", flush=True
                )
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def plan(name: str, conditioning: ConditioningKind, resolution: int, memory_gb: float) -> list[str]:
    """One row of the table."""
    from vlv.cli.dry_run import parameter_counts
    from vlv.planning.meta_step import count_flops, enable_checkpointing

    model = build(COMPONENTS / name, conditioning, resolution)
    trained, frozen = parameter_counts(model)
    fixed = fixed_gib(model)
    forward, backward = count_flops(model)
    whole = gib_an_image(model)
    enable_checkpointing(model)
    checkpointed = gib_an_image(model)
    room = USABLE * memory_gb * 1e9 / 2**30 - fixed
    fits = [str(max(0, int(room / size))) for size in (whole, checkpointed)]
    sizes = f"{frozen / 1e9:.2f}", f"{trained / 1e6:.0f}", f"{forward:.2f}", f"{backward:.2f}", f"{fixed:.1f}"
    return [name, str(resolution), conditioning, *sizes, f"{whole:.2f}", f"{checkpointed:.2f}", *fits]


def build(folder: Path, conditioning: ConditioningKind, resolution: int, device: str = "meta") -> Any:
    """Stage 1's model in fp32, without weights on the meta device, with random ones on another."""
    import torch
    from transformers import Florence2Config

    from vlv.decoders import DecoderSettings, build_decoder
    from vlv.encoders.florence2 import VLVEncoder, VLVEncoderConfig
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.image_processor import VLVImageProcessor

    decoder = build_decoder(folder, DecoderSettings(conditioning, resolution), device)
    config = VLVEncoderConfig(
        florence2_config=Florence2Config.from_pretrained(COMPONENTS / "Florence-2-large").to_dict(),
        spaces={space.name: space.width for space in decoder.conditioner.spaces},
        num_queries=77,
        prompt_ids=PROMPT_IDS,
    )
    with torch.device(device):
        encoder = VLVEncoder(config)
    processor = VLVImageProcessor(resolution, ENCODER_RESOLUTION)
    return VLVAutoEncoder(encoder, decoder, processor, {}, conditioning).train()


def fixed_gib(model: Any) -> float:
    """GiB that a step takes whatever its batch: weights, buffers, gradients, optimizer, and autocast's bf16 copies of
    what trains. Casts the model as stage 1 does: bf16, the VAE and what trains in fp32.
    """
    import torch

    from vlv.cli.dry_run import memory_estimate, parameter_counts

    model.set_dtypes(torch.bfloat16, torch.float32)
    return sum(memory_estimate(model).values()) + 2 * parameter_counts(model)[0] / 2**30


def gib_an_image(model: Any) -> float:
    """GiB that one more image takes, of a model that `fixed_gib` has cast, in batches that keep a card busy."""
    from vlv.planning.meta_step import peak_gib

    return (peak_gib(model, 16) - peak_gib(model, 8)) / 8


if __name__ == "__main__":
    main(sys.argv[1:])
