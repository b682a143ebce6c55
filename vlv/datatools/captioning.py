"""Captions of a dataset's images from an endpoint: many requests at once, a journal, a budget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from vlv.config import CaptionApiConfig
from vlv.data.sample import BadSample, SampleSource
from vlv.datatools.answers import Record, judge, make_record
from vlv.datatools.budget import Budget, BudgetSpentError
from vlv.datatools.endpoint import Endpoint, EndpointError, NoAnswerError, RejectedError
from vlv.datatools.sent_image import data_url
from vlv.inference.journal import Journal
from vlv.progress import Progress

ANSWERS = "answers"
_SYNC_SECONDS = 5.0
_REJECTED_AT_FIRST = 3  # images, before any answer: then it is the call that is rejected, and not they


class Captioning:
    """One call over a source; `run` does the work."""

    def __init__(
        self, config: CaptionApiConfig, source: SampleSource, journal: Journal, budget: Budget, progress: Progress
    ) -> None:
        """Join the parts; nothing is sent yet."""
        self._config, self._source, self._journal, self._budget = config, source, journal, budget
        self._progress = progress
        self._decoding = config.decode_settings()
        self._reading = threading.Lock()  # a source keeps open files and tables, and is read by one thread at a time
        self._rejected_at_first: list[Record] | None = []  # None once there is an answer
        self._failed_in_row = 0
        self.budget_spent: str | None = None

    async def run(self, todo: list[int]) -> None:
        """Ask for the images at these indices, in this order, and keep what comes in the journal.

        Raises:
            EndpointError: the endpoint cannot be used, or is down.
        """
        # A thread decodes an image while the loop waits for answers; more threads than cores would gain nothing.
        with ThreadPoolExecutor(max(1, self._config.num_workers)) as threads:
            endpoint = Endpoint(self._config, self._budget, print)
            places = iter(todo)
            saving = asyncio.create_task(self._save())
            try:
                # Alone until the first answer: a wrong key, model or setting costs one request, not sixteen.
                await self._work(endpoint, places, threads, until_answer=True)
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._config.concurrency):
                        group.create_task(self._work(endpoint, places, threads))
                self._require_some_answer()
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                saving.cancel()
                await endpoint.close()
                self._journal.sync(ANSWERS)

    async def _work(
        self, endpoint: Endpoint, places: Iterator[int], threads: ThreadPoolExecutor, until_answer: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        for index in places:
            name, troubles = self._source.name(index), []
            try:
                url = await loop.run_in_executor(threads, self._image, index)
            except BadSample as reason:
                self._keep(make_record(name, "unreadable", str(reason), []))
                continue
            try:
                record = await self._ask(endpoint, name, url, troubles)
            except BudgetSpentError as reason:
                self.budget_spent = str(reason)
                if troubles:  # tries that were made count against the budget of later calls too
                    self._keep(make_record(name, "failed", "the budget was spent", troubles))
                return
            self._take(record)
            if until_answer and self._rejected_at_first is None:
                return

    async def _ask(self, endpoint: Endpoint, name: str, url: str, troubles: list[str]) -> Record:
        try:
            answer = await endpoint.ask(url, troubles)
        except NoAnswerError as reason:
            return make_record(name, "failed", str(reason), troubles)
        except RejectedError as reason:
            return make_record(name, "refused" if reason.refused else "rejected", str(reason), troubles)
        return make_record(name, *judge(answer), troubles, answer)

    def _image(self, index: int) -> str:
        with self._reading:
            raw = self._source.read(index).image
        return data_url(raw, self._decoding, self._config.max_side, self._config.jpeg_quality)

    def _take(self, record: Record) -> None:
        """Keep what came of a request, and see whether others make sense."""
        if record["outcome"] in ("failed", "rejected"):
            self._failed_in_row += 1
        else:
            self._failed_in_row = 0
        if record["outcome"] == "rejected" and self._rejected_at_first is not None:
            self._rejected_at_first.append(record)
            if len(self._rejected_at_first) == _REJECTED_AT_FIRST:
                self._require_some_answer()
            return
        self._keep(record)
        if record["outcome"] != "failed" and self._rejected_at_first is not None:
            rejected, self._rejected_at_first = self._rejected_at_first, None
            for earlier in rejected:
                self._keep(earlier)
        if self._failed_in_row >= self._config.max_failed_in_row:
            raise EndpointError(f"{self._failed_in_row} images in a row got no answer; the last: {record['text']}")

    def _require_some_answer(self) -> None:
        """Check that not every image was rejected: the request is at fault then.

        Raises:
            EndpointError: every one was.
        """
        if self._rejected_at_first:
            raise EndpointError(f"the endpoint takes none of the first images: {self._rejected_at_first[0]['text']}")

    def _keep(self, record: Record) -> None:
        # Each at once: what is in the file survives a killed process, and an answer costs money.
        self._journal.append(ANSWERS, [{**record}])
        self._progress.advance(1)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            await asyncio.to_thread(self._journal.sync, ANSWERS)
