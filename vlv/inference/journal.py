"""What several processes have finished, kept on disk as it comes, so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from vlv.atomic import write_whole

IDENTITY_NAME = "identity.json"

JsonObject: TypeAlias = dict[str, Any]  # a JSON object; its values are what JSON can hold


class Journal:
    """A folder with one file of JSON lines a process and kind of record.

    Any number of processes can resume what another number has written: all read all files, and each
    appends to its own. Each record carries a hash of its run's identity, and those of other runs are passed over,
    however they came to be here.
    """

    def __init__(self, folder: Path, process_index: int, identity: JsonObject) -> None:
        """Use `folder`, which `prepare` makes.

        Args:
            identity: what decides the records; runs that agree on it share them.
        """
        self.folder = folder
        self._process_index = process_index
        self._identity = identity
        self._run = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def changes(self) -> list[str]:
        """What this identity has else than the folder's, by its keys and in words; none where there is no folder."""
        before, now = read_json(self.folder / IDENTITY_NAME), _as_json(self._identity)
        if not isinstance(before, dict) or not isinstance(now, dict):
            return []
        return [
            f"{key} was {_short(before.get(key))} and is {_short(now.get(key))}"
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]

    def prepare(self) -> Path | None:
        """Make the folder, or take the one that a run of the same identity left. One process calls this.

        Returns:
            Where a folder of another identity was moved to, or None.
        """
        moved, before = None, read_json(self.folder / IDENTITY_NAME)
        # A folder without an identity has no record yet: it was made a moment ago, perhaps by a job beside this one.
        if before is not None and before != _as_json(self._identity):
            moved = unused_path(self.folder)
            self.folder.rename(moved)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / IDENTITY_NAME, self._identity)
        return moved

    def append(self, kind: str, records: Iterable[JsonObject]) -> None:
        """Add records to this process's file, in one write."""
        text = "".join(json.dumps({"run": self._run, **record}, ensure_ascii=False) + "\n" for record in records)
        if not text:
            return
        with self._path(kind).open("ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                text = "\n" + text  # the run was killed within a line; that line stays alone and is skipped
            file.write(text.encode("utf-8", "backslashreplace"))

    def records(self, kind: str) -> Iterator[JsonObject]:
        """Records of all processes of runs of this identity, without lines that were torn."""
        for path in sorted(self.folder.glob(f"{kind}_*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:  # not whole JSON, or cut within a character
                    continue
                if isinstance(record, dict) and record.pop("run", None) == self._run:
                    yield record

    def sync(self, kind: str) -> None:
        """Bring this process's records to the disk; without it a killed process loses none, a power loss may."""
        if self._path(kind).exists():
            with self._path(kind).open("rb") as file:
                os.fsync(file.fileno())

    def forget(self, kind: str) -> None:
        """Drop all processes' records of a kind."""
        for path in self.folder.glob(f"{kind}_*.jsonl"):
            path.unlink()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}_{self._process_index}.jsonl"


def read_json(path: Path) -> object:
    """Read a JSON file; None where it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: object) -> None:
    """Write readable UTF-8 JSON, whole or not at all.

    Undecodable bytes of a file name, which Python holds as lone surrogates, become JSON escapes.
    """
    write_whole(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace"))


def unused_path(path: Path) -> Path:
    """Return the first of path.1, path.2, ... that is not there."""
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))  # as it comes back from the file: a tuple as a list


def _short(value: object) -> str:
    """A value in a message: as JSON, its middle left out where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"


def _ends_with_newline(file: IO[bytes]) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
