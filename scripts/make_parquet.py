"""Put a folder of images and its captions into one parquet file, as stage 2 reads it.

Columns: `image` (the file's own bytes) and `caption`. The images are read one row group at a time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.atomic import whole_file
from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.datatools.pairs_file import write_pairs
from vlv.settings import ConfigError, option, require

if TYPE_CHECKING:
    from vlv.data import FolderSource

SHOWN = 5  # names in a list of what was left out


@dataclass(frozen=True)
class ParquetConfig:
    """What is read and written."""

    images: str = option("", "folder of images (recursive)")
    out: str = option("", "the .parquet file that is written")
    captions: str | None = option(None, "captions.json or .jsonl; null is the one in the folder of images")
    row_group_size: int = option(100, "images in a row group, the unit that the loader reads")

    def __post_init__(self) -> None:
        if not self.images or not self.out:
            raise ConfigError("a folder and a file are needed: python -m scripts.make_parquet IMAGES OUT.parquet")
        require(self.row_group_size >= 1, "row_group_size", self.row_group_size, "give 1 or more")


def main(arguments: list[str]) -> None:
    """Read the call and write the file."""
    call = Call("python -m scripts.make_parquet", __doc__ or "", positional=("images", "out"))
    config = parse(ParquetConfig, call, arguments)
    captions = Path(config.captions) if config.captions is not None else None
    try:
        convert(Path(config.images), Path(config.out), captions, config.row_group_size)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def convert(images: Path, out: Path, captions: Path | None = None, row_group_size: int = 100) -> int:
    """Write the images that have a caption, sorted by name, and print what was left out.

    Args:
        images: folder of images; names in the caption file are relative to it.
        out: the parquet file; an earlier one is replaced when the new one is whole.
        captions: caption file; None for captions.json or captions.jsonl in `images`.
        row_group_size: images held in memory at a time.

    Returns:
        The number of rows.

    Raises:
        ValueError: no images, no captions, none that belong together, or no readable image.
    """
    from vlv.data import FolderSource

    _check_call(images, out)
    names, texts, notes = pair(images, captions or _captions_in(images))
    out.parent.mkdir(parents=True, exist_ok=True)
    source, unreadable = FolderSource(str(images), names), []
    with whole_file(out) as partial:
        rows = write_pairs(partial, _row_groups(source, texts, row_group_size, unreadable))
        if not rows:
            raise ValueError(f"{images}: not one image with a caption can be read, the first is {unreadable[0]}")
    for line in (*notes, _note(unreadable, "images cannot be read and are left out")):
        if line:
            print(line)
    print(f"{rows} of {rows + len(unreadable)} images with a caption in {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return rows


def pair(images: Path, captions: Path) -> tuple[list[str], list[str], list[str]]:
    """Match a folder's images with a caption file.

    Returns:
        (names relative to `images`, their captions, lines on what has no partner).

    Raises:
        ValueError: nothing matches.
    """
    from vlv.data import find_images
    from vlv.data.caption_file import read_captions

    found = find_images(str(images))[1]
    texts = {_relative(name, images): text for name, text in read_captions(str(captions)).items()}
    names = [name for name in found if name in texts]
    if not names:
        example = next(iter(texts), "nothing")
        raise ValueError(
            f"{captions} names none of the {len(found)} images of {images}: it has {example!r}, and an image there is "
            f"{found[0]!r}; names are relative to the folder of images"
        )
    known = set(found)
    notes = [
        _note([name for name in found if name not in texts], "images have no caption and are left out"),
        _note([name for name in texts if name not in known], "captions have no image and are left out"),
    ]
    return names, [texts[name] for name in names], notes


def _check_call(images: Path, out: Path) -> None:
    if out.suffix.lower() != ".parquet" or out.is_dir():
        raise ValueError(f"out={out} must be a file that ends in .parquet, by which the loader knows it")
    if not images.is_dir():
        raise ValueError(f"images={images} is not a folder: give the folder that holds the images")


def _captions_in(images: Path) -> Path:
    for name in ("captions.json", "captions.jsonl"):
        if (images / name).is_file():
            return images / name
    raise ValueError(f"{images} holds neither captions.json nor captions.jsonl: name the file with captions=FILE")


def _relative(name: str, images: Path) -> str:
    return os.path.relpath(name, images.absolute()) if os.path.isabs(name) else os.path.normpath(name)


def _row_groups(
    source: FolderSource, texts: list[str], size: int, unreadable: list[str]
) -> Iterator[tuple[list[bytes], list[str]]]:
    """Full row groups and a last one; the names of files that cannot be read go into `unreadable`."""
    from vlv.data import BadSample

    images, captions = [], []
    for index, text in enumerate(texts):
        try:
            data = source.read(index).image
        except BadSample as error:
            unreadable.append(f"{source.name(index)}: {error}")
            continue
        if not len(data):
            unreadable.append(f"{source.name(index)}: the file is empty")
            continue
        images.append(data)
        captions.append(text)
        if len(images) == size:
            yield images, captions
            images, captions = [], []
    if images:
        yield images, captions


def _note(names: list[str], what: str) -> str:
    """A line that counts and shows names; empty where there is none."""
    from vlv.data.files import display_name

    if not names:
        return ""
    shown = [display_name(os.fsencode(name)) for name in names[:SHOWN]]
    return f"{len(names)} {what}: {', '.join(shown)}" + (f", and {len(names) - SHOWN} more" if names[SHOWN:] else "")


if __name__ == "__main__":
    main(sys.argv[1:])
