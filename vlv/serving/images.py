"""From an image's URL to pixels, within limits of bytes, seconds and memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from torch import Tensor

from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import DECODE_ERRORS, damage, decode_image
from vlv.models.image_processor import VLVImageProcessor
from vlv.serving.fetch import Fetcher, FetchLimits
from vlv.serving.urls import ImageError


class ImageReader:
    """Gives the pixels of images; used by one event loop."""

    def __init__(self, image_processor: VLVImageProcessor, limits: FetchLimits, max_image_mib: int) -> None:
        """Open no connection yet.

        Args:
            max_image_mib: MiB of a decoded image, at most; as many images are decoded at once as there are cores.
        """
        self._image_processor, self._fetcher = image_processor, Fetcher(limits)
        self._decoding = DecodeSettings(max_image_mib=max_image_mib)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._places = asyncio.Semaphore(cores)

    async def read(self, url: str, take: Callable[[int], None]) -> Tensor:
        """The encoder's pixels, uint8 [3, E, E], of the image that a `data:`, http or https URL names.

        Args:
            take: as of `Fetcher.read`.

        Raises:
            ImageError: it cannot be had or decoded, or is beyond the limits.
        """
        content = await self._fetcher.read(url, take)
        del url  # it may hold the whole file once more
        await self._places.acquire()
        work = asyncio.ensure_future(asyncio.to_thread(self._decode, content))
        # Its place is free once the thread is done, which no cancellation stops: hence the shield, too.
        work.add_done_callback(lambda _: self._places.release())
        return await asyncio.shield(work)

    async def close(self) -> None:
        """Close all connections."""
        await self._fetcher.close()

    def _decode(self, content: bytes) -> Tensor:
        try:
            return self._image_processor(decode_image(content, self._decoding))["encoder_pixels"]
        except BadSample as error:
            raise ImageError(f"the image cannot be read: {error}") from None
        except DECODE_ERRORS as error:
            raise ImageError(f"the image cannot be read: {damage(error)}") from None
