"""Captions of any source of images, by several processes; a killed run goes on where it was."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from vlv.atomic import beside, remove_leftovers
from vlv.inference.blocks import (
    MOST,
    REASON,
    Blocks,
    Inputs,
    Output,
    Part,
    Unfinished,
    block_size,
    only_one,
    partial_folder,
)
from vlv.inference.images import (
    ImageBatch,
    ReadSettings,
    find_inputs,
    load_images,
    report_bad_images,
    require_readable,
)
from vlv.inference.journal import Journal, JsonObject
from vlv.inference.processes import ALONE, Processes
from vlv.inference.progress import SharedProgress
from vlv.models.image_processor import VLVImageProcessor
from vlv.sampling import mix_seed


class Captioner(Protocol):
    """What captioning needs of a model."""

    @property
    def image_processor(self) -> VLVImageProcessor:
        """Turns a PIL image into pixels."""
        ...

    def caption_pixels(
        self, encoder_pixels: Tensor, num_beams: int, max_new_tokens: int | None, end_at_sentence: bool
    ) -> list[str]:
        """Captions of uint8 pixels [B, 3, E, E]."""
        ...

    def sample_pixels(
        self,
        encoder_pixels: Tensor,
        seeds: Sequence[Sequence[int]],
        temperature: float,
        max_new_tokens: int | None,
        end_at_sentence: bool,
    ) -> list[list[str]]:
        """As many sampled captions of each of uint8 pixels [B, 3, E, E] as it has seeds."""
        ...


@runtime_checkable
class StreamCaptioner(Protocol):
    """A captioner that takes batches on before it has finished earlier ones."""

    @property
    def image_processor(self) -> VLVImageProcessor:
        """Turns a PIL image into pixels."""
        ...

    def records(self, batches: Iterable[ImageBatch], search: CaptionSearch) -> Iterator[list[JsonObject]]:
        """Records as of `records_of`, in the order in which images are done."""
        ...


@dataclass(frozen=True)
class CaptionSearch:
    """How captions are searched for; with the checkpoint, it decides them.

    num_beams: beams of the search; 1 is greedy.
    max_new_tokens: longest caption in tokens; None is what the captioner was trained with.
    temperature: above 0, captions are sampled instead: `count` of each image, which depend on the seed and its name.
    end_at_sentence: cut a caption that did not come to its end back to its last whole sentence.
    prefix, suffix: what every caption begins and ends with.
    """

    num_beams: int = 4
    max_new_tokens: int | None = None
    temperature: float = 0.0
    count: int = 1
    seed: int = 0
    end_at_sentence: bool = False
    prefix: str = ""
    suffix: str = ""

    def seeds(self, name: str) -> list[int]:
        """The seeds of an image's sampled captions, by its name."""
        mark = zlib.crc32(name.encode("utf-8", "surrogatepass"))
        return [mix_seed(self.seed, mark, number) for number in range(self.count)]

    def framed(self, captions: Sequence[str]) -> list[str]:
        """Captions between prefix and suffix."""
        return [f"{self.prefix}{caption}{self.suffix}" for caption in captions]


@dataclass
class CaptionReport:
    """What came of a run.

    num_images, num_captioned: all, and those with captions. num_reused: of these, an interrupted run's. num_kept: that
    had a caption before. bad: the others' reasons. num_open: blocks that other jobs have not done yet; what is here is
    this job's then, and the last job makes the output whole. was_whole: a run before has done everything.
    """

    num_images: int
    output_path: Path
    num_captions: int = 0
    num_reused: int = 0
    num_kept: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    num_open: int = 0
    was_whole: bool = False


def whole_identity(identity: JsonObject, inputs: Inputs, search: CaptionSearch) -> JsonObject:
    """What decides a captioning's records: runs that agree on it share them, on whatever engine."""
    return {**identity, "image_path": inputs.place, **asdict(search)}


def local_images(image_path: str, preview_dir: Path | None = None) -> Inputs:
    """The images of a file, folder or glob, sorted by name.

    Args:
        preview_dir: pictures in here are no input, where it lies within `image_path`.

    Raises:
        ValueError: no images there.
    """
    found = find_inputs(image_path, preview_dir, "preview_dir")
    return Inputs(str(Path(image_path).absolute()), found.source, Path(found.root))


def caption_images(
    captioner: Captioner | StreamCaptioner,
    inputs: Inputs,
    output: Output,
    search: CaptionSearch,
    reading: ReadSettings,
    identity: JsonObject,
    processes: Processes = ALONE,
    part: Part | None = None,
) -> CaptionReport:
    """Caption every image once; every process of the run calls this.

    Finished captions are kept in `<output>.partial` as they come. A later call with the same identity, by any number of
    processes, resumes there; an image that was replaced meanwhile is captioned anew. The output is made whole at the
    end, and then the folder goes.

    Args:
        identity: what decides the captions beside `search`: the checkpoint, the precision.
        part: this run's, where several jobs share the images; the one that does the last block makes the output whole.

    Raises:
        ValueError: none of the images readable, an output that cannot be written, or a job of another run's captions.
    """
    path = output.path
    identity = whole_identity(identity, inputs, search)
    journal = Journal(partial_folder(path), processes.index, identity)
    if is_whole(journal, output, part):
        return CaptionReport(len(inputs.source), path, was_whole=True)
    sharers = processes.count * (1 if part is None else part.count)
    if processes.is_first:
        prepare_captions(journal, path, inputs, sharers, part)
    processes.wait()
    blocks = Blocks(journal, inputs, block_size(journal, len(inputs.source), sharers))
    numbers = (part or Part()).numbers(blocks)
    if processes.is_first:
        blocks.reopen_changed(numbers)
    processes.wait()
    undone = [number for number in numbers if not blocks.is_done(number)]
    reused = sum(
        len(blocks.indices(number) if blocks.is_done(number) else blocks.started(number)) for number in numbers
    )
    unfinished = Unfinished(blocks, processes.share(undone), inputs, output)
    processes.wait()  # nobody writes before everybody has read, or the shares would differ
    if processes.is_first and reused:
        total = sum(len(blocks.indices(number)) for number in numbers)
        print(f"{reused} of {total} captions are there from an interrupted run, which resumes with the rest")
    unfinished.finish_whole()
    progress = SharedProgress("captions", len(unfinished.todo), processes)
    batches = load_images(inputs.source, unfinished.todo, captioner.image_processor, reading)
    for records in _records(captioner, batches, search):
        unfinished.add(records)
        unfinished.finish_whole()
        progress.advance(len(records))
    progress.close()
    processes.wait()
    report = CaptionReport(len(inputs.source), path, num_reused=reused)
    return finish_captions(journal, blocks, numbers, output, inputs, report, processes)


def is_whole(journal: Journal, output: Output, part: Part | None = None) -> bool:
    """Whether a run before has finished everything, so that nothing is left to do.

    A job that was requeued after the last one had finished would start all over.
    """
    return not journal.folder.is_dir() and output.is_whole() and (part is not None or not output.is_replaced)


def prepare_captions(
    journal: Journal, path: Path, inputs: Inputs, sharers: int, part: Part | None = None, most: int = MOST
) -> None:
    """Make the folder of a captioning, or take the one that a run of the same identity left; one process calls this.

    Raises:
        ValueError: it cannot be written, or is another run's and shared with other jobs.
    """
    if part is not None and (found := journal.changes()):
        raise ValueError(f"{journal.folder} is of another run ({'; '.join(found)}): remove it, or give another output")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if part is None:  # else they may be another job's that is still writing
            remove_leftovers(path, recursive=True)  # texts lie beside images in folders of their own
        moved = journal.prepare()
        block_size(journal, len(inputs.source), sharers, most)  # once, before the others read it
    except OSError as error:
        raise ValueError(f"output_path={path} cannot be written ({error.strerror}): give another") from None
    if moved is not None:
        print(f"captions of another checkpoint, search or image path were set aside in {moved}; starting over")


def _records(
    captioner: Captioner | StreamCaptioner, batches: Iterable[ImageBatch], search: CaptionSearch
) -> Iterator[list[JsonObject]]:
    if isinstance(captioner, StreamCaptioner):
        return captioner.records(batches, search)
    return (records_of(captioner, batch, search) for batch in batches)


def records_of(captioner: Captioner, batch: ImageBatch, search: CaptionSearch) -> list[JsonObject]:
    """A record of each image of a batch, readable or not."""
    places = zip(batch.indices, batch.names, _captions(captioner, batch, search), strict=True)
    records = [{"index": index, "name": name, "captions": search.framed(said)} for index, name, said in places]
    return records + [{"index": bad.index, "name": bad.name, REASON: bad.reason} for bad in batch.bad]


def _captions(captioner: Captioner, batch: ImageBatch, search: CaptionSearch) -> list[list[str]]:
    if not batch.names:
        return []
    pixels, limit, whole = batch.encoder_pixels, search.max_new_tokens, search.end_at_sentence
    if search.temperature:
        seeds = [search.seeds(name) for name in batch.names]
        return captioner.sample_pixels(pixels, seeds, search.temperature, limit, whole)
    return [[caption] for caption in captioner.caption_pixels(pixels, search.num_beams, limit, whole)]


def finish_captions(
    journal: Journal, blocks: Blocks, numbers: range, output: Output, inputs: Inputs, report: CaptionReport,
    processes: Processes,
) -> CaptionReport:  # fmt: skip
    """Count what is done, and make the output whole where all of it is; every process of the run calls this."""
    everything = range(blocks.count)
    report.num_open = sum(not blocks.is_done(number) for number in everything)
    # Every process reads all records, as every one must know whether nothing was readable and end with it.
    try:
        own = blocks.records(numbers if report.num_open else everything)
        for record in (record for block in own for record in block.records):
            if REASON in record:
                report.bad[record["name"]] = record[REASON]
            elif "captions" in record:
                report.num_captions += 1
            else:
                report.num_kept += 1
    except FileNotFoundError:
        if journal.folder.is_dir():
            raise
        report.num_open = 0  # another job has made the output whole meanwhile
        return report
    processes.wait()  # all have read before the folder goes
    if report.num_open:
        return report
    path, total = output.path, report.num_images
    if processes.is_first:
        with only_one(journal.folder) as ours:
            if ours:
                report_bad_images(report.bad, total, beside(path, f"{path.stem}_bad_samples.jsonl"))
                if len(report.bad) < total:
                    output.finish(blocks.records(everything))
                journal.remove()  # where nothing is readable, there is nothing to resume from
    require_readable(report.bad, total, inputs.place)
    processes.wait()
    return report
