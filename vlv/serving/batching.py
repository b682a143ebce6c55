"""Requests that come one by one are captioned together: one thread takes as many at once as wait and are alike."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """How a caption is to be made; requests that agree in all of it share a batch.

    temperature: 0 searches with `num_beams`. count: captions of the image.
    """

    num_beams: int = 1
    temperature: float = 0.0
    count: int = 1
    max_new_tokens: int | None = None


class Said(NamedTuple):
    """A caption: its text, its tokens, and whether it came to its end."""

    text: str
    tokens: int
    ended: bool


class Engine(Protocol):
    """Captions a batch.

    prompt_tokens: rows that an image has in front of its caption. max_new_tokens: tokens of its caption, at most,
    where nothing else is asked.
    """

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def max_new_tokens(self) -> int: ...

    def run(
        self,
        pixels: Sequence[Tensor],
        asked: Asked,
        seeds: Sequence[Sequence[int]],
        on_text: Callable[[int, int, str], None] | None,
        is_over: Callable[[int], bool] | None,
    ) -> list[list[Said]]:
        """Captions of images [3, E, E], `asked.count` of each.

        Args:
            seeds: as many of each image, where they are sampled.
            on_text: called with (image, caption, more text) as text comes, where that is wanted.
            is_over: whether nobody waits for an image's captions any more, which then end where they are.
        """
        ...


class QueueFullError(Exception):
    """As many requests wait, or as many bytes of them, as may."""


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass(eq=False)
class Ticket:
    """A request that waits: its result, and the text as it comes where it is streamed.

    deadline: of `time.monotonic`, after which nobody waits for it. sent: whether some of its text was streamed.
    """

    pixels: Tensor
    asked: Asked
    seeds: list[int]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[list[Said]]
    parts: asyncio.Queue[tuple[int, str] | None] | None
    deadline: float
    sent: bool = False
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.given_up.is_set() or time.monotonic() >= self.deadline

    def on_text(self, caption: int, text: str) -> None:
        """From the thread: more text."""
        if self.parts is not None and text:
            self.sent = True
            self.loop.call_soon_threadsafe(self.parts.put_nowait, (caption, text))

    def settle(self, said: list[Said] | Exception) -> None:
        """From the thread: it is done, or failed."""
        self.loop.call_soon_threadsafe(self._settle, said)

    def _settle(self, said: list[Said] | Exception) -> None:
        if not self.result.done():
            if isinstance(said, Exception):
                self.result.set_exception(said)
                self.result.exception()  # it is known to someone, whoever awaits it
            else:
                self.result.set_result(said)
        if self.parts is not None:
            self.parts.put_nowait(None)


class Batcher:
    """Joins requests into batches for an engine, in a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        batch_size: int,
        wait: float,
        limit: int,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start the thread.

        Args:
            batch_size: images at once, at most; captions of an image count each.
            wait: seconds that a request waits for others.
            limit: requests that wait or are worked on, at most.
            on_batch: told the images of each batch.
        """
        self._engine, self._batch_size, self._wait, self._limit, self._on_batch = (
            engine,
            batch_size,
            wait,
            limit,
            on_batch,
        )
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._working = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="vlv-batches", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Requests that wait or are worked on."""
        return len(self._waiting) + self._working

    def submit(
        self, pixels: Tensor, asked: Asked, seeds: list[int], stream: bool = False, deadline: float = math.inf
    ) -> Ticket:
        """Queue a request, from the event loop; its result is a TimeoutError where it is given up.

        Args:
            deadline: of `time.monotonic`, at which it is given up.

        Raises:
            QueueFullError, ClosedError: it is not taken.
        """
        loop = asyncio.get_running_loop()
        parts = asyncio.Queue() if stream else None
        ticket = Ticket(pixels, asked, seeds, loop, loop.create_future(), parts, deadline)
        with self._changed:
            if self._closed:
                raise ClosedError
            if self.load >= self._limit:
                raise QueueFullError
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def close(self, timeout: float | None = None) -> None:
        """Take no more requests, and wait until those that were taken are done, or for so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                self._wait_for_more()
                batch = self._take()
                self._working = len(batch)
            if batch:
                self._run(batch)
            with self._changed:
                self._working = 0

    def _wait_for_more(self) -> None:
        until = time.monotonic() + self._wait
        while not self._closed and self._images(self._alike()) < self._batch_size:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _alike(self) -> list[Ticket]:
        """Those that wait and could share a batch with the oldest."""
        return [ticket for ticket in self._waiting if ticket.asked == self._waiting[0].asked]

    @staticmethod
    def _images(tickets: Sequence[Ticket]) -> int:
        return sum(ticket.asked.count for ticket in tickets)

    def _take(self) -> list[Ticket]:
        """The oldest request, and those like it that fit into a batch with it."""
        batch: list[Ticket] = []
        left: deque[Ticket] = deque()
        for ticket in self._waiting:
            if ticket.is_over:
                ticket.settle(TimeoutError())
                continue
            alike = not batch or ticket.asked == batch[0].asked
            if alike and (not batch or self._images([*batch, ticket]) <= self._batch_size):
                batch.append(ticket)
            else:
                left.append(ticket)
        self._waiting = left
        return batch

    def _run(self, batch: list[Ticket]) -> None:
        self._on_batch(len(batch))
        stream = any(ticket.parts is not None for ticket in batch)

        def on_text(image: int, caption: int, text: str) -> None:
            batch[image].on_text(caption, text)

        def is_over(image: int) -> bool:
            return batch[image].is_over

        pixels, seeds = [ticket.pixels for ticket in batch], [ticket.seeds for ticket in batch]
        try:
            found = self._engine.run(pixels, batch[0].asked, seeds, on_text if stream else None, is_over)
        except Exception as error:  # noqa: BLE001  (one request's fault, or the batch's size: each is tried alone)
            failure = error
        else:
            for ticket, said in zip(batch, found, strict=True):
                # One that was over may have been cut off, which must not pass for its caption.
                ticket.settle(TimeoutError() if ticket.is_over else said)
            return
        # They hold the batch's tensors: where memory ran out, there would be none for an image alone either.
        traceback.clear_frames(failure.__traceback__)
        for ticket in batch:
            if ticket.is_over:
                ticket.settle(TimeoutError())
            elif len(batch) == 1 or ticket.sent:  # what a client has read cannot be taken back
                ticket.settle(failure)
            else:
                self._run([ticket])
