"""Captions of a set of images, by several processes, into one JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from vlv.atomic import remove_leftovers
from vlv.inference.images import (
    ImageBatch,
    ReadSettings,
    find_inputs,
    last_change,
    load_images,
    report_bad_images,
    require_readable,
)
from vlv.inference.journal import Journal, JsonObject, write_json
from vlv.inference.processes import ALONE, Processes
from vlv.inference.progress import SharedProgress
from vlv.models.image_processor import VLVImageProcessor
from vlv.redaction import printable


class Captioner(Protocol):
    """What captioning needs of a model."""

    @property
    def image_processor(self) -> VLVImageProcessor:
        """Turns a PIL image into pixels."""
        ...

    def caption_pixels(self, encoder_pixels: Tensor, num_beams: int, max_new_tokens: int | None) -> list[str]:
        """Captions of uint8 pixels [B, 3, E, E]."""
        ...


@dataclass(frozen=True)
class CaptionSearch:
    """How captions are searched for; with the checkpoint, it decides them.

    num_beams: beams of the search; 1 is greedy.
    max_new_tokens: longest caption in tokens; None is what the captioner was trained with.
    """

    num_beams: int = 4
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class CaptionReport:
    """What came of a run: numbers of images, captions and captions that an earlier run had made; bad images."""

    num_images: int
    num_captions: int
    num_reused: int
    bad: dict[str, str]
    output_path: Path


def caption_images(
    captioner: Captioner,
    image_path: str,
    output_path: Path,
    search: CaptionSearch,
    reading: ReadSettings,
    identity: JsonObject,
    preview_dir: Path | None = None,
    processes: Processes = ALONE,
) -> CaptionReport:
    """Caption a file, folder or glob into `{"relative/name.jpg": "caption", ...}`, sorted by name.

    Finished captions are kept in `<output_path>.partial` as they come. A later call with the same identity,
    by any number of processes, resumes there; an image that was replaced meanwhile is captioned anew. The
    output appears whole, and then the folder goes.
    Every process of the run calls this.

    Args:
        identity: what decides the captions beside `search`: the checkpoint, the precision.
        preview_dir: pictures in here are no input, where it lies within `image_path`.

    Raises:
        ValueError: no images there, none of them readable, or an output that cannot be written.
    """
    source, names, paths = find_inputs(image_path, preview_dir, "preview_dir")
    identity = {**identity, "image_path": str(Path(image_path).absolute()), **asdict(search)}
    journal = Journal(output_path.with_name(output_path.name + ".partial"), processes.index, identity)
    if processes.is_first:
        _prepare(journal, output_path)
    processes.wait()
    # Before any image is read: one that is replaced during the run is captioned anew by the next.
    changed = {name: last_change(path) or 0 for name, path in zip(names, paths, strict=True)}
    reused = {name for name, record in _newest(journal, names).items() if record["changed"] == changed[name]}
    processes.wait()  # nobody writes before everybody has read, or the shares would differ
    if processes.is_first and reused:
        print(f"{len(reused)} of {len(names)} captions are there from an interrupted run, which resumes with the rest")

    todo = [index for index, name in enumerate(names) if name not in reused]
    progress = SharedProgress("captions", len(todo), processes)
    for batch in load_images(source, processes.share(todo), captioner.image_processor, reading):
        if batch.names:
            journal.append("process", _caption_batch(captioner, batch, search, changed))
        journal.append("bad", ({"name": name, "reason": reason} for name, reason in batch.bad.items()))
        progress.advance(len(batch.names) + len(batch.bad))
    progress.close()
    processes.wait()
    return _finish(journal, output_path, image_path, names, len(reused), processes)


def _caption_batch(
    captioner: Captioner, batch: ImageBatch, search: CaptionSearch, changed: dict[str, int]
) -> list[JsonObject]:
    captions = captioner.caption_pixels(batch.encoder_pixels, search.num_beams, search.max_new_tokens)
    return [
        {"name": name, "changed": changed[name], "caption": caption}
        for name, caption in zip(batch.names, captions, strict=True)
    ]


def _prepare(journal: Journal, output_path: Path) -> None:
    try:
        if output_path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        output_path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output_path)
        moved = journal.prepare()
        journal.forget("bad")  # tried again: a file may have been repaired
    except OSError as error:
        raise ValueError(f"output_path={output_path} cannot be written ({error.strerror}): give another file") from None
    if moved is not None:
        print(f"captions of another checkpoint, search or image path were set aside in {moved}; starting over")


def _newest(journal: Journal, names: Sequence[str]) -> dict[str, JsonObject]:
    """The record of each name that was made of the newest version of its image."""
    wanted = set(names)
    newest: dict[str, JsonObject] = {}
    for record in journal.records("process"):
        if record.keys() >= {"name", "changed", "caption"} and record["name"] in wanted:
            known = newest.setdefault(record["name"], record)
            if record["changed"] > known["changed"]:
                newest[record["name"]] = record
    return newest


def _finish(
    journal: Journal, output_path: Path, image_path: str, names: list[str], num_reused: int, processes: Processes
) -> CaptionReport:
    # Every process reads all records, as every one must know whether nothing was readable and end with it.
    captions = {name: record["caption"] for name, record in _newest(journal, names).items()}
    bad = {record["name"]: record["reason"] for record in journal.records("bad")}
    processes.wait()  # all have read before the folder goes
    if processes.is_first:
        report_bad_images(bad, len(names), output_path.with_name(f"{output_path.stem}_bad_samples.jsonl"))
        if not captions:  # nothing to resume from, and the run ends below
            journal.remove()
    require_readable(bad, len(names), image_path)
    missing = sorted(set(names) - captions.keys() - bad.keys())
    assert not missing, f"{len(missing)} images were given to no process, the first is {printable(missing[0])}"
    if processes.is_first:
        write_json(output_path, dict(sorted(captions.items())))
        journal.remove()
    processes.wait()
    return CaptionReport(len(names), len(captions), num_reused, bad, output_path)
