"""Pictures generated from the embeddings of images: where they lie, their noise, and the generation itself."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Protocol

from PIL import Image
from torch import Generator, Tensor

from vlv.atomic import write_whole
from vlv.data.sample import SampleSource
from vlv.inference.comparison import comparison, reconstruction_labels
from vlv.inference.images import ImageBatch, ReadSettings, last_change, load_images
from vlv.inference.journal import Journal
from vlv.inference.processes import Processes
from vlv.inference.progress import SharedProgress
from vlv.models.image_processor import VLVImageProcessor, to_images

PICTURE_FOLDERS = ("originals", "reconstructions", "comparisons")
_LONGEST_NAME = 255  # bytes of a file's name, on every usual file system


class ImageGenerator(Protocol):
    """What generating pictures needs of a model."""

    @property
    def image_processor(self) -> VLVImageProcessor:
        """Turns a PIL image into pixels."""
        ...

    def reconstruct_pixels(
        self,
        encoder_pixels: Tensor,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
        scheduler: str,
    ) -> Tensor:
        """Pictures uint8 [B, 3, R, R] of uint8 pixels [B, 3, E, E], one CPU generator an image."""
        ...


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are generated; with the checkpoint, it decides every pixel.

    seeds: each gives a picture of every image.
    guidance_scale: of classifier-free guidance; 1 switches it off.
    num_inference_steps: denoising steps.
    scheduler: auto, ddpm, ddim, dpm++, euler, heun.
    """

    seeds: list[int]
    guidance_scale: float = 2.0
    num_inference_steps: int = 50
    scheduler: str = "auto"


@dataclass(frozen=True)
class PictureFolder:
    """Where the pictures of each image lie: PNG files below `originals`, `reconstructions`, `comparisons`.

    With several seeds `reconstructions` has a sub-folder a seed.
    """

    folder: Path
    names: Sequence[str]
    seeds: Sequence[int]
    _files: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_files", picture_files(self.names))

    def original(self, name: str) -> Path:
        """The square of the image that the model was shown."""
        return self.folder / "originals" / self._files[name]

    def reconstruction(self, name: str, seed: int) -> Path:
        """The picture that was generated from a seed."""
        below = [f"seed_{seed}"] if len(self.seeds) > 1 else []
        return self.folder.joinpath("reconstructions", *below, self._files[name])

    def comparison(self, name: str) -> Path:
        """The original and the picture of each seed, side by side."""
        return self.folder / "comparisons" / self._files[name]

    def panels(self, name: str) -> dict[str, Path]:
        """The original and the picture of each seed, by the labels that readers see."""
        paths = [self.original(name), *(self.reconstruction(name, seed) for seed in self.seeds)]
        return dict(zip(reconstruction_labels(self.seeds), paths, strict=True))

    def all_of(self, name: str) -> list[Path]:
        """Every picture of an image, in the order in which they are written."""
        return [*self.panels(name).values(), self.comparison(name)]

    def is_generated(self, name: str, image_file: Path) -> bool:
        """Whether all pictures are there, and newer than the image's last change."""
        changed = last_change(image_file)
        try:
            oldest = min(path.stat().st_mtime_ns for path in self.all_of(name))
        except OSError:
            return False
        # Equal times are no proof on a file system of coarse times: such a picture is generated again.
        return changed is not None and oldest > changed

    def remove_others(self, names: Sequence[str]) -> None:
        """Remove the pictures of images other than `names`: those of images that have gone."""
        ours = {path for name in names for path in self.all_of(name)}
        for kind in PICTURE_FOLDERS:
            # Deepest first, so that a folder is seen after what was in it.
            for path in sorted((self.folder / kind).rglob("*"), reverse=True):
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
                elif path.suffix == ".png" and path.is_file() and path not in ours:
                    path.unlink()


def picture_files(names: Sequence[str]) -> dict[str, str]:
    """Map relative image names to relative PNG names, all different even where case does not count.

    `dogs/a.jpg` gives `dogs/a.png`; where `dogs/a.webp` is there too, they give `dogs/a.jpg.png` and
    `dogs/a.webp.png`.
    """
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stem.casefold() for stem in stems.values())
    files = {name: f"{stem if count[stem.casefold()] == 1 else name}.png" for name, stem in stems.items()}
    if len({file.casefold() for file in files.values()}) < len(files):  # a.jpg, a.png and a.jpg.webp
        files = {name: f"{name}.png" for name in names}
    if len({file.casefold() for file in files.values()}) < len(files):  # a.jpg and A.jpg
        files = {name: f"{name}.{_digest(name)}.png" for name in names}
    return {name: _writable(file, name) for name, file in files.items()}


def _writable(file: str, name: str) -> str:
    """The file of an image, with its last part shortened where a file system could not hold it."""
    folder, last = os.path.split(file)
    if len(_bytes(last)) <= _LONGEST_NAME:
        return file
    kept = _bytes(last)[: _LONGEST_NAME - 13].decode("utf-8", "ignore")
    return os.path.join(folder, f"{kept}.{_digest(name)}.png")


def _digest(name: str) -> str:
    return hashlib.sha256(_bytes(name)).hexdigest()[:8]


def image_generator(seed: int, name: str) -> Generator:
    """CPU generator of an image's noise, a function of the seed and of its relative file name alone.

    So the picture of an image is the same in any folder, batch and number of processes.
    """
    digest = hashlib.sha256(f"{seed}/".encode() + _bytes(name)).digest()
    # 63 bits, as `mix_seed` gives: with another width every picture would have other noise than before.
    return Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def generate_pictures(
    autoencoder: ImageGenerator,
    source: SampleSource,
    indices: Sequence[int],
    pictures: PictureFolder,
    sampling: SamplingSettings,
    reading: ReadSettings,
    journal: Journal,
    processes: Processes,
) -> None:
    """Generate this process's share of the images at `indices`; unreadable ones go into the journal as `bad`."""
    progress = SharedProgress("reconstructions", len(indices), processes)
    for batch in load_images(source, processes.share(indices), autoencoder.image_processor, reading):
        if batch.names:
            _generate_batch(autoencoder, batch, pictures, sampling)
        journal.append("bad", ({"name": bad.name, "reason": bad.reason} for bad in batch.bad))
        progress.advance(len(batch.names) + len(batch.bad))
    progress.close()


def _generate_batch(
    autoencoder: ImageGenerator, batch: ImageBatch, pictures: PictureFolder, sampling: SamplingSettings
) -> None:
    columns = [to_images(batch.decoder_pixels)]  # the originals, then the pictures of each seed
    for seed in sampling.seeds:
        pixels = autoencoder.reconstruct_pixels(
            batch.encoder_pixels,
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.num_inference_steps,
            generators=[image_generator(seed, name) for name in batch.names],
            scheduler=sampling.scheduler,
        )
        columns.append(to_images(pixels))
    for name, row in zip(batch.names, zip(*columns, strict=True), strict=True):
        panels = dict(zip(pictures.panels(name), row, strict=True))
        for label, path in pictures.panels(name).items():
            write_png(path, panels[label])
        # Last: `is_generated` takes an image for done when the comparison is there with all the others.
        write_png(pictures.comparison(name), comparison(panels))


def write_caption_below(pictures: PictureFolder, name: str, caption: str) -> None:
    """Write an image's comparison anew, with the caption below its pictures."""
    panels = {}
    for label, path in pictures.panels(name).items():
        with Image.open(path) as picture:
            panels[label] = picture.convert("RGB")
    write_png(pictures.comparison(name), comparison(panels, caption))


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a PNG, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    picture.save(content, format="PNG")
    write_whole(path, content.getvalue())


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
