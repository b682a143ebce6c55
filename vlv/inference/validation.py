"""What a training run shows at each save: the first validation images, drawn back or captioned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vlv.inference.pictures import image_generator, side_by_side

Batch = dict[str, Any]


@dataclass(frozen=True)
class ValidationSamples:
    """Where the shown images go, and how the processes share them: as they share the validation batches.

    folder: each save gets a folder of its own in it.
    count: how many of the first validation images are shown.
    wait: returns when every process has come here.
    """

    folder: Path
    count: int
    process_index: int
    wait: Callable[[], None]

    def rows(self, batches: Iterable[Batch]) -> Iterator[tuple[int, Batch, int]]:
        """Yield (position, batch, row) of this process's share of the shown images."""
        for batch in batches:
            for row, position in enumerate(batch["positions"]):
                if position < self.count and batch["weights"][row] > 0:
                    yield position, batch, row
            if min(batch["positions"]) >= self.count:
                return

    def step_folder(self, step: int) -> Path:
        """The folder of one save."""
        folder = self.folder / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class ReconstructionSamples:
    """Stage 1: originals beside reconstructions, as PNG."""

    validation_samples: ValidationSamples
    autoencoder: Any
    guidance_scale: float
    num_inference_steps: int
    seed: int

    def __call__(self, step: int, batches: Iterable[Batch], logger: Any) -> None:
        """Draw this process's share, then show all of them."""
        folder = self.validation_samples.step_folder(step)
        for position, batch, row in self.validation_samples.rows(batches):
            name = batch["names"][row]
            drawn = self.autoencoder.reconstruct_pixels(
                batch["encoder_pixels"][row : row + 1],
                guidance_scale=self.guidance_scale,
                num_inference_steps=self.num_inference_steps,
                generators=[image_generator(self.seed, name)],
            )
            panels = [_picture(batch["decoder_pixels"][row]), _picture(drawn[0])]
            side_by_side(panels).save(folder / f"{position:03d}_{Path(name).stem}.png")
        self.validation_samples.wait()
        logger.pictures(step, "validation", sorted(folder.glob("*.png")))


@dataclass(frozen=True)
class CaptionSamples:
    """Stage 2: generated captions beside the true ones, as captions.json."""

    validation_samples: ValidationSamples
    captioner: Any

    def __call__(self, step: int, batches: Iterable[Batch], logger: Any) -> None:
        """Caption this process's share greedily, then show all of them."""
        folder = self.validation_samples.step_folder(step)
        with (folder / f"process_{self.validation_samples.process_index}.jsonl").open("w") as handle:
            for position, batch, row in self.validation_samples.rows(batches):
                caption = self.captioner.caption_pixels(batch["encoder_pixels"][row : row + 1], num_beams=1)[0]
                reference = self.captioner.tokenizer.decode(batch["input_ids"][row], skip_special_tokens=True)
                line = {"position": position, "name": batch["names"][row], "caption": caption, "reference": reference}
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.validation_samples.wait()
        if self.validation_samples.process_index == 0:
            rows = _gather(folder)
            (folder / "captions.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
            table = [[row["name"], row["caption"], row["reference"]] for row in rows]
            logger.table(step, "validation", ["image", "caption", "reference"], table)
        self.validation_samples.wait()


def _gather(folder: Path) -> list[dict[str, Any]]:
    """Read the parts that the processes wrote, and remove them."""
    rows = []
    for part in sorted(folder.glob("process_*.jsonl")):
        rows += [json.loads(line) for line in part.read_text().splitlines()]
        part.unlink()
    return sorted(rows, key=lambda row: row["position"])


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
