"""The samples of a source in blocks, and what is done of them, kept on disk so that an interrupted run resumes.

What is finished is journaled as it comes. A block whose samples are all finished is written to the output, and then its
records to a file of its own; that file is what makes it done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Protocol

from vlv.atomic import beside, write_whole
from vlv.data.sample import SampleSource
from vlv.inference.images import last_change
from vlv.inference.journal import Journal, JsonObject, read_json, write_json

MOST = 1000  # samples: some minutes' work of a GPU, and a few hundred MB where images are written too
_EACH = 16  # blocks of a process at least, so that the shares of a small set are alike
REASON = "reason"  # in a record of a sample that cannot be read; `captions` is in the others'


class Inputs(NamedTuple):
    """What is captioned.

    place: as the user gave it. root: the folder that local images' names are relative to; None of other data.
    """

    place: str
    source: SampleSource
    root: Path | None = None

    def changed(self, index: int) -> int:
        """When an image file was last written, in ns; 0 for what is no file of its own."""
        return 0 if self.root is None else last_change(self.root / self.source.name(index)) or 0


class BlockRecords(NamedTuple):
    """A block and the records of its samples, in their order."""

    number: int
    records: Iterator[JsonObject]


class Output(Protocol):
    """Where captions go: one of `vlv.inference.outputs`."""

    path: Path
    is_replaced: bool  # by the next run, where it is whole; else that one has nothing to do

    def wanted(self, name: str) -> bool:
        """Whether an image is to be captioned; not where its caption is kept from before."""
        ...

    def is_whole(self) -> bool:
        """Whether a run has finished it."""
        ...

    def write_block(self, number: int, records: Sequence[JsonObject]) -> Sequence[JsonObject]:
        """Write what one block says; called again by a run that was killed within it.

        Returns:
            The records as they are to be noted: of an image that could not be written, a reason in place of captions.
        """
        ...

    def finish(self, blocks: Iterator[BlockRecords]) -> None:
        """Everything is captioned: make the output whole, of all blocks in the source's order."""
        ...


class Blocks:
    """The blocks of a source, and the files in a journal's folder that say what is done of them.

    A record has the sample's `index` and `name`, its `changed`, and `captions`, a `reason`, or `kept`.
    """

    def __init__(self, journal: Journal, inputs: Inputs, size: int) -> None:
        """Hold the parts; nothing is read."""
        self._journal, self._inputs, self._size = journal, inputs, size
        self.count = -(-len(inputs.source) // size)

    def number_of(self, index: int) -> int:
        """The block that a sample is in."""
        return index // self._size

    def indices(self, number: int) -> range:
        """The samples of a block."""
        return range(number * self._size, min((number + 1) * self._size, len(self._inputs.source)))

    def is_done(self, number: int) -> bool:
        """Whether the output has a block."""
        return self._path(number).exists()

    def reopen_changed(self, numbers: Iterable[int]) -> None:
        """Those blocks of which an image was replaced, added or removed are undone; the others' captions stay.

        One process calls this.
        """
        for number in numbers:
            if self.is_done(number) and self._digest_on_disk(number) != _digest(map(self._state, self.indices(number))):
                self._journal.append(_kind(number), (record for record in self._read(number) if "captions" in record))
                self._path(number).unlink()

    def started(self, number: int) -> dict[int, JsonObject]:
        """Captioned samples of a block that is not done, by index, as far as they are still the same."""
        found: dict[int, JsonObject] = {}
        for record in self._journal.records(_kind(number)):
            whole = record.keys() >= {"index", "name", "changed", "captions"}
            if not whole or record["index"] not in self.indices(number):
                continue
            if (record["name"], record["changed"]) == self._state(record["index"]):
                found[record["index"]] = record
        return found

    def add(self, records: Iterable[JsonObject]) -> None:
        """Journal records of any blocks."""
        for number, own in groupby(records, lambda record: self.number_of(record["index"])):
            self._journal.append(_kind(number), own)

    def finish(self, number: int, records: Sequence[JsonObject]) -> None:
        """Note a block as done, with all of its records in order."""
        digest = _digest((record["name"], record["changed"]) for record in records)
        lines = [json.dumps(digest), *(json.dumps(record, ensure_ascii=False) for record in records)]
        self._path(number).parent.mkdir(exist_ok=True)
        # Last: a run that is killed before it writes the block's output once more, the same.
        write_whole(self._path(number), "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        self._journal.forget(_kind(number))

    def records(self, numbers: Iterable[int]) -> Iterator[BlockRecords]:
        """What is noted of blocks that are done, in their order."""
        return (BlockRecords(number, self._read(number)) for number in numbers)

    def _state(self, index: int) -> tuple[str, int]:
        return self._inputs.source.name(index), self._inputs.changed(index)

    def _read(self, number: int) -> Iterator[JsonObject]:
        with self._path(number).open("rb") as file:
            next(file)
            yield from map(json.loads, file)

    def _digest_on_disk(self, number: int) -> str:
        with self._path(number).open("rb") as file:
            return json.loads(next(file, b"null"))

    def _path(self, number: int) -> Path:
        return self._journal.folder / "done" / f"{number:08}.jsonl"


class Unfinished:
    """A process's blocks, in order, with what is known of their samples."""

    def __init__(self, blocks: Blocks, numbers: Sequence[int], inputs: Inputs, output: Output) -> None:
        """Read what an interrupted run has left of them."""
        self._blocks, self._output = blocks, output
        self._known = {number: blocks.started(number) for number in numbers}
        self.todo: list[int] = []
        # Before any image is read: one that is replaced during the run is captioned anew by the next.
        self._changed: dict[int, int] = {}
        for number, records in self._known.items():
            for index in blocks.indices(number):
                if index in records:
                    continue
                changed = inputs.changed(index)
                if output.wanted(name := inputs.source.name(index)):
                    self.todo.append(index)
                    self._changed[index] = changed
                else:
                    records[index] = {"index": index, "name": name, "changed": changed, "kept": True}

    def add(self, records: Sequence[JsonObject]) -> None:
        """Take records of samples of `todo`, in any order: `index`, `name`, and `captions` or a `reason`."""
        whole = [{**record, "changed": self._changed.pop(record["index"])} for record in records]
        # Others are tried again by the next run: a file may have been mended.
        self._blocks.add(record for record in whole if "captions" in record)
        for record in whole:
            self._known[self._blocks.number_of(record["index"])][record["index"]] = record

    def finish_whole(self) -> None:
        """Write the blocks at the front of which all samples are known."""
        # In order, and no further than the first that is not whole: a later one is held back for a few images alone.
        for number in list(self._known):
            indices = self._blocks.indices(number)
            if len(self._known[number]) < len(indices):
                return
            records = [self._known[number][index] for index in indices]
            self._blocks.finish(number, self._output.write_block(number, records))
            del self._known[number]


@dataclass(frozen=True)
class Part:
    """One of several jobs that share a source without a word between them: every `count`-th block, from `index` on."""

    index: int = 0
    count: int = 1

    def numbers(self, blocks: Blocks) -> range:
        """The blocks of this job."""
        return range(self.index, blocks.count, self.count)


@contextmanager
def only_one(folder: Path) -> Iterator[bool]:
    """Whether this job is the one that finishes: of several that see the last block done, the first."""
    try:
        file = (folder / "finish.lock").open("w")
    except FileNotFoundError:  # another job has finished, and the folder is gone
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks: both write the same, and the second finds no folder to remove
            pass
        yield folder.is_dir()


def partial_folder(output: Path) -> Path:
    """Where a captioning keeps what is done."""
    return beside(output, f"{output.name}.partial")


def block_size(journal: Journal, samples: int, processes: int, most: int = MOST) -> int:
    """Samples of a block: what the folder's first run chose, or, where there is none, so that processes share alike."""
    before = read_json(journal.folder / "blocks.json")
    if isinstance(before, dict) and isinstance(before.get("size"), int):
        return before["size"]
    size = min(most, max(1, -(-samples // (_EACH * processes))))
    write_json(journal.folder / "blocks.json", {"size": size})
    return size


def listing_digest(source: SampleSource) -> str:
    """Of the names of all samples, in their order."""
    return _digest((source.name(index), 0) for index in range(len(source)))


def _kind(number: int) -> str:
    return f"block{number:08}"


def _digest(states: Iterable[tuple[str, int]]) -> str:
    """Of the names and times of a block's samples."""
    digest = hashlib.sha256()
    for name, changed in states:
        digest.update(f"{name}\0{changed}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
