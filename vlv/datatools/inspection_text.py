"""An inspection in words: the facts as label and text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from vlv.data.formats import FORMATS
from vlv.datatools.distribution import Distribution, bars, share_text, summary
from vlv.datatools.inspection import WORKERS, Inspection

_LABEL = 12
_SPACES = {"webdataset": "shards", "parquet": "row groups"}


def terminal_lines(found: Inspection) -> Iterator[str]:
    """What the terminal shows."""
    yield found.source
    for label, text in [*facts(found), *probe_facts(found)]:
        yield f"  {label:<{_LABEL}}  {text}"
    for kind in found.bad:
        yield f"  {'bad':<{_LABEL}}  {kind.count:,} x {kind.reason}, as {kind.example}"
    for note in found.notes:
        yield f"  {'note':<{_LABEL}}  {note}"
    for title, spread in histograms(found):
        yield ""
        yield f"{title}: {summary(spread)}"
        yield from bars(spread)


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """What holds for the whole dataset."""
    about = "about " if found.estimated else ""
    if found.kind in FORMATS:
        noun = FORMATS[found.kind].noun
        files = f"{found.num_files:,} {noun}{'' if found.num_files == 1 else 's'}"
        yield "files", f"{files}, {about}{size_text(found.num_bytes)}" if found.num_bytes else files
    else:
        yield "kind", "dataset of the hub" if found.kind == "hub" else "mixture, each source once"
    yield "samples", f"{found.num_samples:,} {'with captions' if found.captions else 'images without captions'}"
    if found.kind in _SPACES:
        least, median, largest = found.shard_samples
        yield _SPACES[found.kind], f"{found.num_shards:,} of {least:,} to {largest:,} samples, median {median:,}"


def probe_facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """What the probe showed."""
    bad = found.probed - found.good
    yield "probe", f"{found.probed:,} samples, {bad:,} bad ({share_text(bad, found.probed)})"
    if not found.good:
        return
    yield "formats", _counts(found.formats, found.good)
    yield "modes", _counts(found.modes, found.good)
    marks = {
        "with ICC profile": found.profiles,
        "turned by EXIF": found.turned,
        "with transparency": found.transparent,
        "truncated, read": found.truncated,
        "with the bytes of another": found.repeated,
    }
    if any(marks.values()):
        yield "of them", _counts({name: count for name, count in marks.items() if count}, found.good)
    yield "enlarged", f"{found.enlarged:.1%} have a short side below decoder_resolution={found.decoder_resolution}"
    if found.above_limit is not None:
        yield "cut", f"{found.above_limit:.1%} of the captions have more than {found.max_caption_tokens} tokens"
    if (speed := found.speed) is not None:
        yield (
            "speed",
            f"{speed.one_process:,.0f} images/s in one process: {speed.read_ms:.1f} ms to read, "
            f"{speed.decode_ms:.1f} ms to decode, {speed.resize_ms:.1f} ms for both resizes",
        )
        yield (
            f"{WORKERS} workers",
            f"about {speed.eight_workers:,.0f} images/s with a core each (here: {speed.cores}), so "
            f"{_duration(speed.epoch_hours)} for every sample once",
        )


def histograms(found: Inspection) -> Iterator[tuple[str, Distribution]]:
    """Titles and distributions; of captions one, tokens where they were counted."""
    if found.sides is not None:
        yield "Short side in pixels", found.sides
    if found.aspects is not None:
        yield "Width / height", found.aspects
    for unit in ("tokens", "words") if "tokens" in found.lengths else ("words", "characters"):
        if unit in found.lengths:
            yield f"Caption length in {unit}", found.lengths[unit]


def size_text(num_bytes: int) -> str:
    """Bytes in the unit that fits."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}" if num_bytes < 1e15 else f"{num_bytes / size:,.0f} {unit}"
    return f"{num_bytes} bytes"


def _counts(counts: dict[str, int], total: int) -> str:
    return ", ".join(f"{count:,} {name} ({share_text(count, total)})" for name, count in counts.items())


def _duration(hours: float) -> str:
    for unit, length in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * length:
            return f"{hours / length:.1f} {unit}"
    return f"{max(1, round(hours * 3600))} s"
