"""What there is: a path becomes a source of samples, whatever its format."""

from __future__ import annotations

import logging
import os
from collections import Counter

from vlv.data.arrow import HUB, is_hub, open_hub, require_hub_name
from vlv.data.damaged_shards import leave_out
from vlv.data.files import (
    Listing,
    describe_kinds,
    expand_pattern,
    extension,
    is_stream,
    kind_of,
    pack_names,
    scan_folder,
    unread_kind,
)
from vlv.data.formats import FORMATS, DataFiles, DataFormat, SourceSettings, accepted
from vlv.data.mixture import check_mixture, is_mixture, open_mixture
from vlv.data.remote import remote_files
from vlv.data.remote_listing import is_listed, look_remotely
from vlv.data.sample import SampleSource
from vlv.redaction import redact

_CHECKED = 10_000  # files of a folder that a check lists: enough to see its format
_log = logging.getLogger(__name__)


def open_source(path: str, settings: SourceSettings | None = None) -> SampleSource:
    """Open a dataset for reading by index.

    Args:
        path: a folder (recursive), a file, a glob, or a list with braces or commas, local or as URLs; a file that ends
            in .list and has one of them on each line; a .yaml file that lists sources (`vlv.data.mixture`); or
            hub:owner/name.
        settings: format, captions, columns; None is images of whatever format is there.

    Raises:
        ValueError: nothing usable is there; the message names the path and what is accepted.
    """
    settings = settings or SourceSettings()
    if is_hub(path):
        return open_hub(path, settings)
    if is_mixture(path):
        return open_mixture(path, settings, open_source)
    return open_listed(path, *list_source(path, settings), settings)


def open_listed(path: str, kind: str, files: DataFiles, listing: Listing, settings: SourceSettings) -> SampleSource:
    """Open what `list_source` has found at a path; errors as of `open_source`."""
    path = redact(path)  # it is for messages alone
    if settings.data_format == "auto":
        _warn_of_others(path, kind, listing)
    if listing.others:
        kinds = describe_kinds(listing.others)
        leave_out(f"{path}: left out, as their kinds cannot be read: {kinds}", settings.max_bad_share)
    return FORMATS[kind].load().open_files(files, settings)


def list_source(path: str, settings: SourceSettings) -> tuple[str, DataFiles, Listing]:
    """Return what `open_source` would read: the format, its files, and all that the path holds.

    Raises:
        ValueError: nothing usable is there.
    """
    root, listing = _look(path, settings)
    return *_choose(redact(path), root, listing, settings), listing


def check_source(path: str, settings: SourceSettings | None = None) -> None:
    """Check what names and the first file's header show of a dataset; no sample is read.

    Raises:
        ValueError: `open_source` with these settings would fail, or every sample would lack its caption.
    """
    settings = settings or SourceSettings()
    if is_hub(path):
        require_hub_name(path, HUB)
    elif is_mixture(path):
        check_mixture(path, settings, check_source)
    else:
        root, listing = _look(path, settings, _CHECKED)
        kind, files = _choose(redact(path), root, listing, settings)
        FORMATS[kind].load().check_files(files, settings)


def _look(path: str, settings: SourceSettings, limit: int | None = None) -> tuple[str, Listing]:
    """List what a path holds: (root, what is under it); of a folder about `limit` files."""
    if is_stream(path):
        # The path last: of a command that is printed all is hidden that may be a secret, and words behind it too.
        raise ValueError(
            f"this can only be streamed, not read by index; copy the shards to disk for this use: {redact(path)}"
        )
    if is_listed(path):
        return look_remotely(path, remote_files(settings.remote_cache_gb))
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        return path, scan_folder(path, limit)
    if not path:
        raise ValueError(f"the dataset's path is empty; {accepted()}")
    files = [path] if os.path.lexists(path) else expand_pattern(path)
    if len(files) == 1 and os.path.isdir(files[0]):
        return files[0], scan_folder(files[0], limit)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    names: dict[str, list[str]] = {kind: [] for kind in FORMATS}
    others: Counter[str] = Counter()
    for file in files:
        kind = kind_of(file)
        if os.path.isdir(file):
            others["folder"] += 1
        elif kind is not None:
            names[kind].append(os.path.relpath(file, root))
        elif (other := unread_kind(file)) is not None:
            others[other] += 1
    if not any(names.values()):
        raise ValueError(f"{path} is of no format that can be read{_hint(files[0])}; {accepted()}")
    return root, Listing({kind: pack_names(found) for kind, found in names.items()}, others)


def _hint(path: str) -> str:
    """What to do with a compressed tar, which cannot be read by index: its members have no place of their own."""
    if extension(path) in ("gz", "tgz", "bz2", "xz", "zst"):
        return " by index (it is compressed: unpack it to a plain .tar)"
    return ""


def _choose(path: str, root: str, listing: Listing, settings: SourceSettings) -> tuple[str, DataFiles]:
    """Choose the format, and give its files, one at least."""
    wanted: DataFormat = settings.data_format
    if wanted != "auto":
        if not len(listing.files[wanted]):
            raise ValueError(f"{path} holds no {FORMATS[wanted].noun}{_others(listing)}: {accepted()}")
        return wanted, DataFiles(path, root, listing.files[wanted], listing.remote)
    found = [
        (kind, DataFiles(path, root, names, listing.remote)) for kind, names in listing.files.items() if len(names)
    ]
    if not found:
        there = f" (it has {describe_kinds(listing.others)})" if listing.others else ""
        raise ValueError(f"{path} holds nothing that can be read{there}; {accepted()}")
    if len(found) == 1:  # nothing else could be meant, so a fault of it is worth its own message
        return found[0]
    return next((item for item in found if FORMATS[item[0]].load().has_images(item[1], settings)), found[-1])


def _warn_of_others(path: str, chosen: str, listing: Listing) -> None:
    others = [
        f"{len(names)} {FORMATS[kind].noun}s" for kind, names in listing.files.items() if len(names) and kind != chosen
    ]
    if others:
        left = " and ".join(others)
        noun = FORMATS[chosen].noun
        _log.warning("%s: reading the %ss; %s are left out (data_format chooses)", path, noun, left)


def _others(listing: Listing) -> str:
    there = [f"{len(names)} {FORMATS[kind].noun}s" for kind, names in listing.files.items() if len(names)]
    return f" (there are {' and '.join(there)}: set data_format)" if there else ""
