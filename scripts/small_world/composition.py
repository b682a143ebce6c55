"""Composition: the embeddings of two pictures, truncated and joined, drawn as one picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.image_processor import to_images
from vlv.sampling import sample_generators
from vlv.shapes.measures import facts
from vlv.shapes.oracle import read_pictures
from vlv.shapes.scene import Scene


def composable_pairs(scenes: Sequence[Scene], count: int) -> list[tuple[int, int]]:
    """Numbers of scenes of one or two shapes each that stand in different places on the same background."""
    pairs: list[tuple[int, int]] = []
    waiting: list[int] = []
    for number, scene in enumerate(scenes):
        if len(scene.items) > 2:
            continue
        partner = next((other for other in waiting if _fit(scenes[other], scene)), None)
        if partner is None:
            waiting.append(number)
        else:
            waiting.remove(partner)
            pairs.append((partner, number))
        if len(pairs) == count:
            break
    return pairs


def _fit(first: Scene, second: Scene) -> bool:
    cells = {(item.row, item.column) for item in first.items}
    return first.background == second.background and not any((i.row, i.column) in cells for i in second.items)


@torch.no_grad()
def draw_compositions(
    model: VLVAutoEncoder,
    first: Sequence[Image.Image],
    second: Sequence[Image.Image],
    rows: int,
    guidance: float,
    steps: int,
) -> list[Image.Image]:
    """Pictures of the first `rows` embeddings of one picture followed by as many of another's (arXiv 2507.07104).

    Both together may be as many as the decoder's text encoder takes: 77 for CLIP.
    """
    sides = []
    for pictures in (first, second):
        sides.append(model.encoder(model.image_processor.batch(list(pictures))["encoder_pixels"]))
    joined = {name: torch.cat([side[name][:, :rows] for side in sides], dim=1) for name in sides[0]}  # [B, 2 rows, D]
    images = model.decoder.generate_images(
        model.decoder.conditioner(joined),
        guidance_scale=guidance,
        num_inference_steps=steps,
        generators=sample_generators(0, range(len(first))),
        scheduler="ddim",
    )
    return to_images(images)


def measure_compositions(pictures: Sequence[Image.Image], pairs: Sequence[tuple[Scene, Scene]]) -> dict[str, float]:
    """Recall of the shapes of each of the two scenes, and the share of pictures that hold shapes of both."""
    found, wanted, both = [0, 0], [0, 0], 0
    for reading, pair in zip(read_pictures(pictures), pairs, strict=True):
        drawn = set(facts(reading.scene.items))
        hits = [len(drawn & set(facts(scene.items))) for scene in pair]
        for index, scene in enumerate(pair):
            found[index] += hits[index]
            wanted[index] += len(scene.items)
        both += min(hits) > 0
    return {
        "recall_first": found[0] / wanted[0],
        "recall_second": found[1] / wanted[1],
        "both": both / len(pairs),
        "count": len(pairs),
    }
