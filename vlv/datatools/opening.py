"""A dataset opened for a tool: what it is, whether its samples are pairs, and what was left out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from vlv.config import FormatConfig
from vlv.config.tools import CaptionsChoice
from vlv.data.arrow import is_hub
from vlv.data.formats import DataFiles, SourceSettings
from vlv.data.mixture import is_mixture
from vlv.data.sample import SampleSource
from vlv.data.sources import check_source, list_source, open_listed, open_source
from vlv.redaction import redact


@dataclass(frozen=True)
class Opened:
    """A dataset.

    kind: its format, or hub or mixture. files: what is read of it; None of a hub's dataset and of a mixture.
    captions: whether its samples are pairs.
    notes: what the readers warned of, a sentence each: what is left out, damaged shards.
    """

    source: SampleSource
    kind: str
    files: DataFiles | None
    captions: bool
    notes: list[str]


def open_dataset(path: str, config: FormatConfig, captions: CaptionsChoice) -> Opened:
    """Open a dataset; with captions=auto as pairs wherever the first file has captions.

    Raises:
        ValueError: nothing usable is there, or it can only be streamed.
    """
    settings = replace(config.source_settings(), data_format=config.data_format)
    find = check_source if not is_hub(path) else open_source  # names alone say nothing of a hub's columns
    paired = replace(
        settings, captions=captions == "on" or (captions == "auto" and _has_captions(path, settings, find))
    )
    with _warnings() as notes:
        if is_hub(path) or is_mixture(path):
            kind, files, source = "hub" if is_hub(path) else "mixture", None, open_source(path, paired)
        else:
            kind, files, listing = list_source(path, paired)
            source = open_listed(path, kind, files, listing, paired)
    return Opened(source, kind, files, paired.captions, [note.removeprefix(f"{redact(path)}: ") for note in notes])


def _has_captions(path: str, settings: SourceSettings, find: Callable[[str, SourceSettings], object]) -> bool:
    find(path, settings)  # what is wrong with the images is no lack of captions
    try:
        find(path, replace(settings, captions=True))
    except ValueError:
        return False
    return True


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what the readers warn of, instead of printing it."""
    found: list[str] = []
    logger, collector = logging.getLogger("vlv.data"), logging.Handler(logging.WARNING)
    collector.emit = lambda record: found.append(record.getMessage())
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated
