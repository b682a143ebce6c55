"""A bound on the bytes that requests hold while they wait for their images to be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlv.serving.batching import QueueFullError


class HeldBytes:
    """Counts the bytes of all requests together; used by one event loop."""

    def __init__(self, most: int) -> None:
        """Hold nothing yet, and never more than `most` bytes."""
        self._most, self._held = most, 0

    @contextmanager
    def of_request(self) -> Iterator[Callable[[int], None]]:
        """Gives what is called with the number of bytes that come; at the end all of them are let go.

        Raises:
            QueueFullError: from that call, where there is no room for them.
        """
        own = 0

        def take(count: int) -> None:
            nonlocal own
            if self._held + count > self._most:
                raise QueueFullError
            self._held += count
            own += count

        try:
            yield take
        finally:
            self._held -= own
