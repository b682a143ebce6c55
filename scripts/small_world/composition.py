"""Composition: the embeddings of two pictures, truncated and joined, generated as one picture.

Measures it on the first test scenes that fit together, and writes composition.json and composition.png into `out`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from scripts.small_world.panels import composition_panel
from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.image_processor import to_images
from vlv.sampling import sample_generators
from vlv.settings import option, require
from vlv.shapes.measures import facts
from vlv.shapes.oracle import read_pictures
from vlv.shapes.render import render
from vlv.shapes.runs import GUIDANCE
from vlv.shapes.scene import Scene, make_scene

SHOWN = 6  # pairs of the panel: the first ones, whatever came out
Measures = dict[str, float]


@dataclass(frozen=True)
class CompositionConfig:
    """Which model composes, how many pairs, and where the result goes."""

    ckpt_dir: str = option("./assets/tiny/trained/stage1", "stage-1 model", path="local")
    out: str = option("./outputs/composition", "folder of composition.json and composition.png", path="local")
    count: int = option(200, "pairs of pictures")
    num_inference_steps: int = option(50, "denoising steps")

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "give at least 1 pair")
        require(self.num_inference_steps >= 1, "num_inference_steps", self.num_inference_steps, "give at least 1")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and compose."""
    call = Call("python -m scripts.small_world.composition", __doc__ or "")
    config = parse(CompositionConfig, call, sys.argv[1:] if arguments is None else arguments)
    load_libraries()
    try:
        measures = compose(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    print(json.dumps(measures, indent=2))


def compose(config: CompositionConfig) -> Measures:
    """Join two pictures' embeddings, the first halves and the whole; generate, measure, keep the first pictures.

    Raises:
        ValueError: more pairs than the first 2,000 test scenes have.
    """
    scenes = [make_scene("test", number) for number in range(2_000)]
    pairs = composable_pairs(scenes, config.count)
    if len(pairs) < config.count:
        raise ValueError(f"count={config.count} cannot be used: the test scenes have {len(pairs)} pairs that fit")
    both = [(scenes[first], scenes[second]) for first, second in pairs]
    sides = [[render(scenes[pair[side]], pair[side]) for pair in pairs] for side in (0, 1)]
    model = VLVAutoEncoder.from_pretrained(Path(config.ckpt_dir))
    queries = model.encoder.num_queries
    result: Measures = {}
    generated: dict[str, list[Image.Image]] = {}
    for name, rows in (("halves", queries // 2), ("whole", queries)):
        generated[name] = generate_compositions(model, sides[0], sides[1], rows, config.num_inference_steps)
        measured = measure_compositions(generated[name], both)
        result |= {f"{name}_{key}": value for key, value in measured.items() if key != "count"}
    result["count"] = config.count
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    panel = composition_panel(both[:SHOWN], sides[0], sides[1], generated["halves"], generated["whole"])
    panel.save(out / "composition.png", optimize=True)
    (out / "composition.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


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
def generate_compositions(
    model: VLVAutoEncoder, first: Sequence[Image.Image], second: Sequence[Image.Image], rows: int, steps: int
) -> list[Image.Image]:
    """Pictures from the first `rows` embeddings of one picture followed by as many of another's (arXiv 2507.07104).

    Both together may be as many as the decoder's text encoder takes: 77 for CLIP.
    """
    sides = []
    for pictures in (first, second):
        sides.append(model.encoder(model.image_processor.batch(list(pictures))["encoder_pixels"]))
    joined = {name: torch.cat([side[name][:, :rows] for side in sides], dim=1) for name in sides[0]}  # [B, 2 rows, D]
    images = model.decoder.generate_images(
        model.decoder.conditioner(joined),
        guidance_scale=GUIDANCE,
        num_inference_steps=steps,
        generators=sample_generators(0, range(len(first))),
        scheduler="ddim",
    )
    return to_images(images)


def measure_compositions(pictures: Sequence[Image.Image], pairs: Sequence[tuple[Scene, Scene]]) -> Measures:
    """Recall of the shapes of each of the two scenes, and the share of pictures that hold shapes of both."""
    found, wanted, both = [0, 0], [0, 0], 0
    for reading, pair in zip(read_pictures(pictures), pairs, strict=True):
        shown = set(facts(reading.scene.items))
        hits = [len(shown & set(facts(scene.items))) for scene in pair]
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


if __name__ == "__main__":
    main()
