"""Bad samples are counted, written down with their reason, and too many of them end the run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlv.batch import Batch
from vlv.data.remote import RemoteError
from vlv.data.sample import BadSample

_JUDGED_FROM = 1000  # samples over all processes before a share means anything


class TooManyBadSamples(ValueError):  # noqa: N818  (the message is the error; the name says what it is about)
    """The share of unreadable samples is above the limit."""


def reason_of(error: Exception) -> str:
    """Why a sample is bad, of what was raised while it was read and prepared.

    One sample of millions must not end a run, and every resume of it: what no reader foresaw is named as such. A fault
    of the code's own shows all the same, as it makes more than max_bad_share bad.

    Raises:
        Exception: the error itself where it says nothing about the sample: a lack of memory, or remote data that cannot
            be had.
    """
    if isinstance(error, BadSample):
        return str(error)
    if isinstance(error, (MemoryError, RemoteError)):
        raise error
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"


class BadSampleLog:
    """Watches a loader: one JSON line a bad sample, in a file that several processes may share."""

    def __init__(self, path: Path, dataset: str, num_processes: int, max_share: float | None) -> None:
        """Log to `path` (bad_samples.jsonl of the run).

        Args:
            path: appended to, and made at the first bad sample; a name that it has already is not repeated.
            dataset: which one the names belong to, train or validation; several logs share the file.
            num_processes: processes that read the same order; each watches its own loader.
            max_share: above this share of bad samples the watch ends in TooManyBadSamples; 0 ends it at the first, or
                at the first truncated one; None never does.
        """
        self.path = path
        self._dataset, self._num_processes, self._max_share = dataset, num_processes, max_share
        self.seen = 0
        self.bad = 0
        self.truncated = 0  # of the good ones: read, although the file lacks its end
        self._written: set[str] = set()
        self._read_to = 0  # bytes of the file whose names are in `_written`
        self._reasons: Counter[str] = Counter()

    def watch(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the loader's batches.

        Raises:
            TooManyBadSamples: after the first 1,000 samples of all processes, the share is above the limit; with a
                limit of 0 at once.
        """
        for batch in loader:
            self._count(batch)
            yield batch

    def _count(self, batch: Batch) -> None:
        places = list(zip(batch["names"], batch["positions"], batch["errors"], batch["weights"].tolist(), strict=True))
        for (name, position, _, _), truncated in zip(places, batch["truncated"], strict=True):
            if truncated:
                self.truncated += 1
                self._write(name, position, "truncated, read")
        for name, position, reason, weight in places:
            self.seen += weight > 0 or reason is not None  # padding has neither a weight nor a reason
            if reason is not None:
                self.bad += 1
                self._reasons[reason.split(":")[0]] += 1
                self._write(name, position, reason)
        # This process's own share, without asking the others: they read the same order in turn, so theirs is about the
        # same, and a collective in the loader's path could wait for a process that has ended.
        share = self.bad / max(1, self.seen)
        if self._max_share is not None and self.seen * self._num_processes >= _JUDGED_FROM and share > self._max_share:
            raise TooManyBadSamples(
                f"{self.bad} of {self.seen} samples ({share:.1%}) are unreadable and at most {self._max_share:.1%} may "
                f"be; mostly: {self._reasons.most_common(1)[0][0]}. {self.path} lists them: repair the data or raise "
                "max_bad_share"
            )

    def _write(self, name: str, position: int, reason: str) -> None:
        self._record(name, position, reason)
        if self._max_share == 0:
            raise TooManyBadSamples(
                f"{name}: {reason}; max_bad_share=0 allows none. Repair or remove it, or raise max_bad_share"
            )

    def _record(self, name: str, position: int, reason: str) -> None:
        if name not in self._written:
            self._read_names()
        if name in self._written:
            return
        self._written.add(name)
        record = {"dataset": self._dataset, "name": name, "position": position, "reason": reason}
        line = json.dumps(record, ensure_ascii=False) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending: lines of several processes never mix.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode("utf-8", "backslashreplace"))
        finally:
            os.close(file)

    def _read_names(self) -> None:
        """Read what other processes, and the run that this one resumes, have written since the last look."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # torn when a run was killed
                continue
            if record.get("dataset") == self._dataset:
                self._written.add(record.get("name"))
