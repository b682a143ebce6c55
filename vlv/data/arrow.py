"""Hugging Face `datasets`: folders of `save_to_disk`, plain Arrow files, and datasets of the hub, read by index.

The library maps Arrow files into memory, so that a row is found without decoding a group of them, and all processes of
a machine share the pages. It follows a saved selection or shuffle of rows too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from vlv.data.cells import caption_of, check_columns, image_of
from vlv.data.files import split_evenly
from vlv.data.formats import DataFiles, SourceSettings, accepted, caption_column, wanted_columns
from vlv.data.latent_cache import MANIFEST, LatentSource, is_latent_cache
from vlv.data.linked_files import linked_files
from vlv.data.mapped_rows import MappedRows, checked
from vlv.data.sample import RawSample

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hub:"
_SHARD_SAMPLES = 1_000_000  # a row is found by itself, as a file of a folder is; see there
_SPLITS = "dataset_dict.json"  # of a folder with several splits
_STATE = "state.json"  # of a folder with one


class ArrowSource:
    """Rows of a dataset of `datasets`."""

    pool_shards = 1

    def __init__(
        self, label: str, rows: Dataset | MappedRows, settings: SourceSettings, folders: Sequence[str]
    ) -> None:
        """Take the rows and what to read of them.

        Args:
            label: what stands before a row's number in its name.
            folders: with the files that rows may name, relative to the first.

        Raises:
            ValueError: it has no rows, or not the columns or their types.
        """
        self._label, self._raw_shape = label, settings.raw_image_shape
        self._image, self._caption = settings.image_column, caption_column(settings)
        schema = rows.schema if isinstance(rows, MappedRows) else rows.data.schema
        check_columns(label, schema, self._image, self._caption)
        if not len(rows):
            raise ValueError(f"{label} has no rows: {accepted()}")
        self._columns = wanted_columns(settings)
        self._read_linked = linked_files(folders[0], folders)
        # Arrow's own rows: decoding, and which images are bad, is a matter of the preparation.
        self._rows: Any = rows if isinstance(rows, MappedRows) else rows.with_format("arrow", columns=self._columns)
        self.shard_sizes = split_evenly(len(rows), _SHARD_SAMPLES)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def name(self, index: int) -> str:
        """Return label:row, as in train:17."""
        return f"{self._label}:{index}"

    def read(self, index: int) -> RawSample:
        """Read one row."""
        row = checked(self._rows[index].select(self._columns))
        image = image_of(row.column(self._image)[0], self._raw_shape, self._read_linked)
        return RawSample(image, None if self._caption is None else caption_of(row.column(self._caption)[0]))


def open_files(files: DataFiles, settings: SourceSettings) -> ArrowSource | LatentSource:
    """Open a folder of `save_to_disk`, its split where it has several, or Arrow files one after another.

    Raises:
        ValueError: there is no such split, a file cannot be read, or the columns are not there.
    """
    from datasets import load_from_disk

    if is_latent_cache(files.root):
        return LatentSource(files.root, settings)
    folder = _saved_folder(files, settings)
    if folder is None:
        paths = [os.path.join(files.root, os.fsdecode(name)) for name in files.names.to_pylist()]
        image, caption = settings.image_column, caption_column(settings)
        rows = MappedRows(
            files.path, paths, lambda path, table: check_columns(path, table.schema, image, caption),
            settings.max_bad_share,
        )  # fmt: skip
        return ArrowSource(files.path, rows, settings, [files.root])
    try:
        dataset = cast("Dataset", load_from_disk(folder))  # a DatasetDict where the folder has splits, as this not
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise ValueError(f"{files.path} cannot be read as Arrow files: {one_line(error)}") from None
    return ArrowSource(os.path.basename(os.path.abspath(folder)), dataset, settings, [folder])


def check_files(files: DataFiles, settings: SourceSettings) -> None:
    """Check that the split is there, and the columns; a file is mapped, not read.

    Raises:
        ValueError: they are not.
    """
    open_files(files, settings)


def has_images(files: DataFiles, settings: SourceSettings) -> bool:
    """Whether the files are a saved dataset, or latents; Arrow files that lie beside other data may be anything."""
    return any(os.path.isfile(os.path.join(files.root, name)) for name in (_SPLITS, _STATE, MANIFEST))


def _saved_folder(files: DataFiles, settings: SourceSettings) -> str | None:
    """The folder to load: that of the split, or the root; None where the files were not saved by `save_to_disk`."""
    listing = os.path.join(files.root, _SPLITS)
    if not os.path.isfile(listing):
        return files.root if os.path.isfile(os.path.join(files.root, _STATE)) else None
    try:
        with open(listing, encoding="utf-8") as file:
            splits: list[str] = json.load(file)["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{listing} cannot be read: {one_line(error)}") from None
    wanted = settings.split or (splits[0] if len(splits) == 1 else "train")
    if wanted not in splits:
        raise ValueError(f"{files.path} has no split {wanted!r}: set data_split to one of {', '.join(splits)}")
    return os.path.join(files.root, wanted)


def is_hub(path: str) -> bool:
    """Whether a path is a dataset of the Hugging Face hub: hub:owner/name."""
    return path.startswith(HUB)


def open_hub(path: str, settings: SourceSettings) -> ArrowSource:
    """Open a dataset of the hub, which `datasets` downloads once and keeps as Arrow files in its cache.

    Raises:
        ValueError: it cannot be had, or has not the split or the columns.
    """
    from datasets import config, load_dataset
    from huggingface_hub.constants import HF_HUB_CACHE

    name, split = require_hub_name(path, HUB), settings.split or "train"
    with hub_errors(path, "loaded", split):
        dataset = load_dataset(name, settings.subset, split=split, revision=settings.revision)
    # Of a dataset of image files the rows have paths alone: of files as they were downloaded, or unpacked.
    return ArrowSource(f"{name}:{split}", dataset, settings, [HF_HUB_CACHE, str(config.HF_DATASETS_CACHE)])


@contextmanager
def hub_errors(path: str, what: str, split: str) -> Iterator[None]:
    """Say on one line what could not be done with a dataset of the hub.

    Raises:
        ValueError: where the library gave up.
    """
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(
            f"{path} cannot be {what} ({one_line(error)}): check the name, data_subset, data_split={split} and "
            "data_revision"
        ) from None


def require_hub_name(path: str, prefix: str) -> str:
    """The owner/name behind the prefix of a path; nothing is asked of the hub.

    Raises:
        ValueError: it is not owner/name.
    """
    owner, _, name = path.strip().removeprefix(prefix).partition("/")
    if not owner or not name or "/" in name:
        raise ValueError(f"{path} names no dataset of the hub: write {prefix}owner/name")
    return f"{owner}/{name}"


def one_line(error: BaseException) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
