"""The images of an inference run: decoded and resized in loader workers, the unreadable ones named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from vlv.atomic import write_whole
from vlv.data import FolderSource, find_images
from vlv.data.formats import LOADER_TIMEOUT, DecodeSettings
from vlv.data.loader import load_batches
from vlv.data.preparation import ImageProcessor, PreparedSample, SamplePreparation
from vlv.data.remote import RemoteError
from vlv.data.sample import BadSample, RawSample, SampleSource
from vlv.redaction import printable

_BAD_IMAGES_PRINTED = 20


@dataclass(frozen=True)
class ReadSettings:
    """How images are read.

    batch_size: images that a process takes at once.
    num_workers: loader workers of a process; 0 reads in the process itself.
    decoding: which images are left out as unreadable, and how the others are decoded.
    timeout: seconds without a batch after which loader workers are taken to hang.
    """

    batch_size: int = 8
    num_workers: int = 0
    decoding: DecodeSettings = DecodeSettings()
    timeout: float = LOADER_TIMEOUT


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read: where it lies in the source, its name, and why."""

    index: int
    name: str
    reason: str


class ImageBatch(NamedTuple):
    """Readable images, and the others. B may be smaller than the batch size, or 0.

    names: [B], relative to the image path; two images of a source may have the same.
    indices: [B], where each lies in the source.
    encoder_pixels, decoder_pixels: uint8 [B, 3, E, E] and [B, 3, R, R].
    """

    names: list[str]
    indices: list[int]
    encoder_pixels: Tensor
    decoder_pixels: Tensor
    bad: list[BadImage]


class ImageDataset(Dataset):
    """The images of a source, by index."""

    def __init__(self, source: SampleSource, image_processor: ImageProcessor, decoding: DecodeSettings) -> None:
        """Join a source with the processor that makes its pixels."""
        self._source = source
        self._prepare = SamplePreparation(image_processor, decoding=decoding)
        self.collate = self._prepare.collate

    def __getitem__(self, index: int) -> PreparedSample:
        """Return pixels, name, and the reason where the image cannot be read."""
        return self._prepare(index, self._source.name(index), lambda: self._read(index))

    def _read(self, index: int) -> RawSample:
        try:
            return self._source.read(index)
        except RemoteError as error:
            # An image file of its own, whose server is gone or refuses it, is one image of many. A shard is not.
            if isinstance(self._source, FolderSource):
                raise BadSample(error.reason) from None
            raise


class InputImages(NamedTuple):
    """What was found under an image path.

    source: reads them.
    names: relative to the root, sorted, always text that can be written as UTF-8.
    paths: the files.
    root: the folder that they are relative to.
    """

    source: SampleSource
    names: list[str]
    paths: list[Path]
    root: str


def find_inputs(image_path: str, output_dir: Path | None, option: str) -> InputImages:
    """Find the images of a file, folder or glob, without the pictures that lie in `output_dir`.

    Raises:
        ValueError: no images there, or none outside `output_dir`, which the setting `option` gave.
    """
    root, files = find_images(image_path)
    if output_dir is not None:
        ours = output_dir.absolute()
        files = [file for file in files if not (Path(root).absolute() / file).is_relative_to(ours)]
        if not files:
            raise ValueError(f"image_path={image_path} lies in {option}={output_dir}: give another {option}")
    source = FolderSource(root, files)
    names = [source.name(index) for index in range(len(source))]
    return InputImages(source, names, [Path(root) / file for file in files], root)


def last_change(image_file: Path) -> int | None:
    """When an image was last written or put in its place, in ns; None where it is gone.

    A file that is moved over another keeps its old time of writing; the time of its status change shows the move.
    """
    try:
        status = image_file.stat()
    except OSError:
        return None
    return max(status.st_mtime_ns, status.st_ctime_ns)


def load_images(
    source: SampleSource,
    indices: Sequence[int],
    image_processor: ImageProcessor,
    reading: ReadSettings,
) -> Iterator[ImageBatch]:
    """Yield the images at `indices`, in their order."""
    size = reading.batch_size
    batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    if not batches:
        return
    dataset = ImageDataset(source, image_processor, reading.decoding)
    for batch in load_batches(dataset, batches, dataset.collate, reading.num_workers, reading.timeout):
        readable = batch["weights"] > 0
        places = list(zip(batch["positions"], batch["names"], batch["errors"], strict=True))
        yield ImageBatch(
            names=[name for _, name, error in places if error is None],
            indices=[index for index, _, error in places if error is None],
            encoder_pixels=batch["encoder_pixels"][readable],
            decoder_pixels=batch["decoder_pixels"][readable],
            bad=[BadImage(index, name, error) for index, name, error in places if error is not None],
        )


def report_bad_images(bad: dict[str, str], total: int, path: Path) -> None:
    """Name unreadable images on the terminal and in a file of JSON lines; a file of a former run goes.

    Raises:
        ValueError: no image at all could be read.
    """
    path.unlink(missing_ok=True)
    if not bad:
        return
    lines = [json.dumps({"name": name, "reason": bad[name]}, ensure_ascii=False) + "\n" for name in sorted(bad)]
    write_whole(path, "".join(lines).encode("utf-8", "backslashreplace"))
    print(f"{len(bad)} of {total} images could not be read and are left out; {path} lists them:")
    for name in sorted(bad)[:_BAD_IMAGES_PRINTED]:
        print(f"  {printable(name)}: {bad[name]}")
    if len(bad) > _BAD_IMAGES_PRINTED:
        print(f"  and {len(bad) - _BAD_IMAGES_PRINTED} more")


def require_readable(bad: dict[str, str], total: int, image_path: str) -> None:
    """Check that at least one image could be read.

    Raises:
        ValueError: none could; names the first with its reason.
    """
    if total and len(bad) == total:
        name = min(bad)
        raise ValueError(
            f"image_path={image_path}: none of its {total} images can be read; the first is "
            f"{printable(name)}: {bad[name]}"
        )
