"""The formats that data is read from, one entry each. Loads nothing: settings and `--help` read it too.

A new format is one file, which opens and checks its files as `FormatModule` says, and one entry here. Listing a
folder, choosing by extension, messages, order, loader and bad samples then serve it as they serve the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    import pyarrow as pa

    from vlv.data.remote import RemoteFiles
    from vlv.data.sample import SampleSource

IMAGE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "avif", "bmp", "dib", "gif", "tif", "tiff"}
    | {"jp2", "j2k", "jpx", "jpf"}
)
# What lies beside data and describes it: the only files that are left out without a word.
DESCRIPTIONS = frozenset({"txt", "json", "jsonl", "csv", "tsv", "md", "yaml", "yml", "html", "log", "xml"})

MAX_IMAGE_MIB = 2048  # 179 million pixels of RGB, where Pillow by default refuses an image as a decompression bomb

LOADER_TIMEOUT = 600.0  # seconds
REMOTE_CACHE_GB = 10.0  # GiB: validation images, footers, and small datasets

DataFormat = Literal["auto", "folder", "webdataset", "parquet", "arrow"]

RAW_SIZE_ADVICE = "give [height, width], [3, height, width], [height, width, 3] or null"


def is_raw_size(value: object) -> bool:
    """Whether `raw_image_size` can be this: null, or the size of raw pixels as `RAW_SIZE_ADVICE` says."""
    if value is None:
        return True
    if not isinstance(value, list) or not all(isinstance(side, int) and side > 0 for side in value):
        return False
    return len(value) == 2 or (len(value) == 3 and 3 in (value[0], value[2]))


def raw_shape(size: list[int] | None) -> tuple[int, int, int] | None:
    """The shape of the images, CHW or HWC, that `raw_image_size` describes."""
    if size is None:
        return None
    return (size[0], size[1], size[2]) if len(size) == 3 else (3, size[0], size[1])


@dataclass(frozen=True)
class DecodeSettings:
    """How images are decoded.

    max_image_mib: images that need more MiB of memory while they are decoded and converted are refused.
    convert_profiles: an embedded ICC profile is kept, for the image processor to convert to sRGB; False drops it.
    read_truncated: JPEGs that lack only their end are read; False refuses them like other truncated images.
    reduced_jpeg: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where that is as large as what they become.
    """

    max_image_mib: int = MAX_IMAGE_MIB
    convert_profiles: bool = True
    read_truncated: bool = True
    reduced_jpeg: bool = False


@dataclass(frozen=True)
class SourceSettings:
    """How a dataset is opened.

    data_format: folder (of images), webdataset (.tar shards), parquet, arrow (of `datasets`), or auto: what is there.
    captions: whether samples are pairs; a pair without its caption is a bad sample, or left out of a folder.
    image_column: column of a table with the image, or field of .jsonl and .csv captions with its name.
    caption_column: column of a table, or field of .json, .jsonl and .csv captions, with the caption.
    raw_image_shape: shape of images that parquet holds as raw uint8 bytes, CHW or HWC; None where it holds none.
    cache_dir: where tar indexes are kept; None is $VLV_CACHE_DIR or ~/.cache/vlv/index.
    num_workers: shards indexed at once; None goes by the cores.
    pool_samples: the order's shuffle window, which the parquet cache has to hold.
    readers: processes of this machine that read together, which share the row groups that parquet decodes.
    max_bad_share: of the shards, above which damaged ones are an error and no longer a warning.
    split, subset, revision: of a dataset of `datasets`; no split is train, or the only one.
    remote_cache_gb: GiB of what is read of URLs that stay on this machine's disk; 0 is none.
    """

    data_format: DataFormat = "auto"
    captions: bool = False
    image_column: str = "image"
    caption_column: str = "caption"
    raw_image_shape: tuple[int, int, int] | None = None
    cache_dir: str | None = None
    num_workers: int | None = None
    pool_samples: int = 8192
    readers: int = 1
    max_bad_share: float = 1.0
    split: str | None = None
    subset: str | None = None
    revision: str | None = None
    remote_cache_gb: float = REMOTE_CACHE_GB


def caption_column(settings: SourceSettings) -> str | None:
    """The column of captions that is read; None where samples are images alone."""
    return settings.caption_column if settings.captions else None


def wanted_columns(settings: SourceSettings) -> list[str]:
    """The columns of a table that are read."""
    caption = caption_column(settings)
    return [settings.image_column] if caption is None else [settings.image_column, caption]


@dataclass(frozen=True)
class DataFiles:
    """The files of one format that a path names.

    path: as the user wrote it, for messages.
    root: the folder that the names are relative to; "" where they are whole paths and URLs.
    names: sorted, at least one; as the file system's bytes.
    remote: reads the files that are URLs; None where none is.
    """

    path: str
    root: str
    names: pa.LargeBinaryArray
    remote: RemoteFiles | None = None


class FormatModule(Protocol):
    """What the file of a format has."""

    def open_files(self, files: DataFiles, settings: SourceSettings) -> SampleSource:
        """Open the files for reading by index; raises ValueError where they cannot be."""
        ...

    def check_files(self, files: DataFiles, settings: SourceSettings) -> None:
        """Raise ValueError for what names and the first file's header show to be wrong; read no sample."""
        ...

    def has_images(self, files: DataFiles, settings: SourceSettings) -> bool:
        """Whether `auto` may take the files for the data: parquet files beside images may be metadata alone."""
        ...


@dataclass(frozen=True)
class Format:
    """A format.

    extensions: of its files, in lower case and without the dot.
    noun: what a message calls one of the files.
    accepted: what a message says can be given.
    module: the file with what `FormatModule` lists, loaded on first use.
    """

    extensions: frozenset[str]
    noun: str
    accepted: str
    module: str

    def load(self) -> FormatModule:
        """Import the format's file."""
        return cast("FormatModule", import_module(self.module))


# In the order in which `auto` prefers them: shards come with parquet files of metadata beside them, and pictures
# with either.
FORMATS: dict[str, Format] = {
    "webdataset": Format(frozenset({"tar"}), ".tar shard", ".tar shards (webdataset)", "vlv.data.tar_shards"),
    "parquet": Format(frozenset({"parquet"}), ".parquet file", ".parquet files", "vlv.data.parquet"),
    "arrow": Format(
        frozenset({"arrow"}),
        ".arrow file",
        "a dataset of Hugging Face's `datasets` (.arrow, or hub:owner/name)",
        "vlv.data.arrow",
    ),
    "folder": Format(
        IMAGE_EXTENSIONS,
        "image",
        "a folder of images (.jpg .png .webp .avif .bmp .gif .tif .jp2)",
        "vlv.data.folder",
    ),
}


def accepted() -> str:
    """Return the sentence with which messages list the formats."""
    *others, last = (entry.accepted for entry in reversed(FORMATS.values()))
    return f"accepted are {', '.join(others)} or {last}"
