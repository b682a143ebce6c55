"""What a training run shows at each save: the first validation images, reconstructed or captioned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from torch import Generator, Tensor

from vlv.batch import Batch, PairBatch
from vlv.evaluation.registry import caption_measures
from vlv.inference.comparison import comparison, reconstruction_labels
from vlv.inference.journal import JsonObject, write_json
from vlv.inference.pictures import image_generator, write_png
from vlv.models.image_processor import to_images


class Reconstructor(Protocol):
    """What showing reconstructions needs of a model."""

    def reconstruct_pixels(
        self,
        encoder_pixels: Tensor,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
    ) -> Tensor:
        """Pictures uint8 [B, 3, R, R] of uint8 pixels [B, 3, E, E], one CPU generator an image."""
        ...


class TokenDecoder(Protocol):
    """What reading a reference caption needs of a tokenizer."""

    def decode(self, token_ids: Tensor, skip_special_tokens: bool = False) -> str | list[str]:
        """The text of token ids [L]."""
        ...


class Captioner(Protocol):
    """What showing captions needs of a model."""

    @property
    def tokenizer(self) -> TokenDecoder:
        """The language model's tokenizer."""
        ...

    def caption_pixels(self, encoder_pixels: Tensor, num_beams: int | None = None) -> list[str]:
        """Captions of uint8 pixels [B, 3, E, E]."""
        ...


class SampleLogger(Protocol):
    """Where the samples are shown beside the run's folder."""

    def pictures(self, step: int, name: str, paths: list[Path]) -> None:
        """Show pictures."""
        ...

    def table(self, step: int, name: str, columns: list[str], rows: list[list[str]]) -> None:
        """Show a table."""
        ...


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
            # Positions rise, so no later batch has one; without this all of the set would be read.
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
    autoencoder: Reconstructor
    guidance_scale: float
    num_inference_steps: int
    seed: int

    def __call__(self, step: int, batches: Iterable[Batch], logger: SampleLogger) -> None:
        """Reconstruct this process's share, then show all of them."""
        folder = self.validation_samples.step_folder(step)
        for position, batch, row in self.validation_samples.rows(batches):
            name = batch["names"][row]
            generated = self.autoencoder.reconstruct_pixels(
                batch["encoder_pixels"][row : row + 1],
                guidance_scale=self.guidance_scale,
                num_inference_steps=self.num_inference_steps,
                # By name and not by batch: the picture of an image differs between saves by training alone.
                generators=[image_generator(self.seed, name)],
            )
            pictures = [*to_images(batch["decoder_pixels"][row : row + 1]), *to_images(generated)]
            panels = dict(zip(reconstruction_labels([self.seed]), pictures, strict=True))
            write_png(folder / f"{position:03d}_{Path(name).stem}.png", comparison(panels))
        self.validation_samples.wait()
        logger.pictures(step, "validation", sorted(folder.glob("*.png")))


@dataclass(frozen=True)
class CaptionSamples:
    """Stage 2: generated captions beside the true ones, as captions.json, and their measures as metrics.json."""

    validation_samples: ValidationSamples
    captioner: Captioner

    def __call__(self, step: int, batches: Iterable[Batch], logger: SampleLogger) -> None:
        """Caption this process's share greedily, then show all of them."""
        folder = self.validation_samples.step_folder(step)
        # Written anew: a run that was killed in this save may have left one.
        with (folder / f"process_{self.validation_samples.process_index}.jsonl").open("w") as handle:
            for position, batch, row in self.validation_samples.rows(batches):
                # Greedily: a save must not take as long as a run of captioning.
                caption = self.captioner.caption_pixels(batch["encoder_pixels"][row : row + 1], num_beams=1)[0]
                reference = self.captioner.tokenizer.decode(
                    cast("PairBatch", batch)["input_ids"][row], skip_special_tokens=True
                )
                line = {"position": position, "name": batch["names"][row], "caption": caption, "reference": reference}
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.validation_samples.wait()
        if self.validation_samples.process_index == 0:
            rows = _gather(folder)
            write_json(folder / "captions.json", rows)
            write_json(folder / "metrics.json", measure_captions(rows))
            table = [[row["name"], row["caption"], row["reference"]] for row in rows]
            logger.table(step, "validation", ["image", "caption", "reference"], table)
        self.validation_samples.wait()


def measure_captions(rows: Sequence[JsonObject]) -> JsonObject:
    """Every measure of captions over rows with `caption` and `reference`, and how each is explained."""
    captions, references = [row["caption"] for row in rows], [row["reference"] for row in rows]
    measures = [measure for measure in caption_measures() if measure.minimum <= len(rows)]
    values = {measure.name: measure.compute(captions, references) for measure in measures}
    return {"measures": {measure.name: measure.legend() for measure in measures}, **values, "n": len(rows)}


def _gather(folder: Path) -> list[JsonObject]:
    """Read the parts that the processes wrote, and remove them."""
    rows = []
    for part in sorted(folder.glob("process_*.jsonl")):
        rows += [json.loads(line) for line in part.read_text().splitlines()]
        part.unlink()
    return sorted(rows, key=lambda row: row["position"])
