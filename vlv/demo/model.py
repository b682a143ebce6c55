"""What the page can ask: a caption, and pictures from an image's embeddings, from a text, and from two images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, NamedTuple, get_args

import torch
from PIL import Image
from torch import Tensor

from vlv.decoders.interface import Conditioning
from vlv.decoders.prompts import PromptEncoder
from vlv.encoders import VisionEncoder
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.captioner import VLVCaptioner
from vlv.models.image_processor import to_images
from vlv.sampling import sample_generators
from vlv.serving.batching import Asked, Said
from vlv.serving.engine import CaptionEngine

Join = Literal["in place", "first rows"]
JOINS: tuple[Join, ...] = get_args(Join)


@dataclass(frozen=True)
class Sampling:
    """How a picture is drawn; pictures of the same seed start from the same noise, whatever they are drawn from.

    scheduler: a name that the decoder knows; auto is its own.
    """

    seed: int = 42
    guidance_scale: float = 2.0
    num_inference_steps: int = 25
    scheduler: str = "auto"


class Pictures(NamedTuple):
    """What draws pictures.

    autoencoder: the encoder whose embeddings the frozen decoder understands, and the decoder.
    prompts: reads texts; None where the decoder was trained without its text encoder.
    """

    autoencoder: VLVAutoEncoder
    prompts: PromptEncoder | None


class DemoModel:
    """A captioner, and the decoder behind it where there is one. Calls may come from several threads; one runs at a
    time.
    """

    def __init__(self, captioner: VLVCaptioner, pictures: Pictures | None, no_pictures: str = "") -> None:
        """Hold the models, on their devices and in their number formats.

        Args:
            no_pictures: why there are none, in one line, where `pictures` is None.
        """
        self._captioner, self._pictures = captioner, pictures
        self.no_pictures = no_pictures
        self._engine = CaptionEngine(captioner)
        # How many rows are kept is a state of the encoder, so that calls must not mix, wherever they come from.
        self._one_at_a_time = threading.Lock()

    @property
    def rows(self) -> int:
        """Rows of an image's embeddings, Q."""
        return self._captioner.encoder.num_queries

    @property
    def draws(self) -> bool:
        """Whether there is a decoder."""
        return self._pictures is not None

    @property
    def reads_texts(self) -> bool:
        """Whether pictures can be drawn from a text."""
        return self._pictures is not None and self._pictures.prompts is not None

    @property
    def default_join(self) -> Join:
        """How two images are best joined: where each row is a region of the image, every row in its own place."""
        return "first rows" if self._captioner.encoder.regions is None else "in place"

    def caption(self, image: Image.Image, rows: int | None = None) -> Iterator[str]:
        """The greedy caption so far, again and again as it grows; the last one is whole.

        A reader that stops early stops the search with it.

        Args:
            rows: only the first so many rows of the embeddings are read; None is all.

        Raises:
            ValueError: another number of rows than 1 to Q.
        """
        pixels = self._captioner.image_processor(image)["encoder_pixels"]
        parts: SimpleQueue[str | None] = SimpleQueue()
        nobody_reads = threading.Event()
        ended: list[Said | BaseException] = []

        def on_text(_image: int, _caption: int, text: str) -> None:
            # Raised out of `generate`, which has no other way to be stopped between two tokens.
            if nobody_reads.is_set():
                raise InterruptedError
            parts.put(text)

        def search() -> None:
            try:
                with self._one_at_a_time, _first(self._captioner.encoder, rows):
                    # Greedy: a beam search would have nothing to show before its end.
                    ended.append(self._engine.run([pixels], Asked(), [[]], on_text)[0][0])
            except BaseException as error:  # noqa: BLE001  (raised again where the caption is read)
                ended.append(error)
            parts.put(None)

        # In a thread of its own, as transformers calls back: the text comes while `generate` runs.
        # A daemon: the end of the process does not wait for a caption.
        threading.Thread(target=search, daemon=True).start()
        so_far = ""
        try:
            while (part := parts.get()) is not None:
                so_far += part
                yield so_far
        finally:
            # Also where the page was closed: the generator is closed then.
            nobody_reads.set()
        (result,) = ended
        if isinstance(result, BaseException):
            raise result
        # An empty caption comes in no part; else what all tokens say together counts.
        if result.text != so_far or not so_far:
            yield result.text

    def reconstruct(self, image: Image.Image, sampling: Sampling, rows: int | None = None) -> Image.Image:
        """What the frozen decoder draws from an image's embeddings; as `VLVAutoEncoder.reconstruct`.

        Raises:
            ValueError: no decoder, or a number of rows or steps that it has not.
        """
        autoencoder = self._require_pictures().autoencoder
        with self._one_at_a_time, _first(autoencoder.encoder, rows):
            (picture,) = autoencoder.reconstruct(
                [image],
                sampling.guidance_scale,
                sampling.num_inference_steps,
                sampling.seed,
                sampling.scheduler,
            )
        return picture

    def draw_text(self, text: str, sampling: Sampling) -> Image.Image:
        """What the same decoder draws from a text, which its own text encoder reads.

        Raises:
            ValueError: no decoder, or one without a text encoder.
        """
        prompts = self._prompts()
        with self._one_at_a_time, self._require_pictures().autoencoder.autocast():
            return self._draw(prompts([text]), sampling)

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the decoder's text encoder can read."""
        return self._prompts().cuts(text)

    @torch.no_grad()
    def compose(
        self, first: Image.Image, second: Image.Image, rows: int, join: Join, sampling: Sampling
    ) -> Image.Image:
        """A picture from `rows` rows of one image's embeddings and Q - `rows` of another's (see `join_rows`).

        With all rows or none it is the reconstruction of the first or of the second image.

        Raises:
            ValueError: no decoder, or a number of rows or steps that it has not.
        """
        autoencoder = self._require_pictures().autoencoder
        if not 0 <= rows <= self.rows:
            raise ValueError(f"rows={rows} cannot be used: give 0 to {self.rows}")
        with self._one_at_a_time, autoencoder.autocast():
            embeddings = []
            for image in (first, second):  # one by one: in a batch of two the last bits would be others
                pixels = autoencoder.image_processor.batch([image])["encoder_pixels"]  # [1, 3, E, E]
                embeddings.append(autoencoder.encoder(pixels.to(autoencoder.device)))
            joined = {name: join_rows(embeddings[0][name], embeddings[1][name], rows, join) for name in embeddings[0]}
            return self._draw(autoencoder.decoder.conditioner(joined), sampling)

    def _draw(self, conditioning: Conditioning, sampling: Sampling) -> Image.Image:
        pixels = self._require_pictures().autoencoder.decoder.generate_images(
            conditioning,
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.num_inference_steps,
            generators=sample_generators(sampling.seed, [0]),  # as `VLVAutoEncoder.reconstruct` of one image
            scheduler=sampling.scheduler,
        )
        return to_images(pixels)[0]

    def _require_pictures(self) -> Pictures:
        if self._pictures is None:
            raise ValueError(self.no_pictures)
        return self._pictures

    def _prompts(self) -> PromptEncoder:
        prompts = self._require_pictures().prompts
        if prompts is None:
            raise ValueError("this decoder was trained without its text encoder: it draws no texts")
        return prompts


def join_rows(first: Tensor, second: Tensor, rows: int, join: Join) -> Tensor:
    """Q rows from two images' embeddings [B, Q, D]: `rows` of the first one's, then of the second's.

    Args:
        join: `first rows` takes the second's first Q - `rows` (arXiv 2507.07104 composes so from halves); `in place`
            takes its last ones, so that every row stays where it was.
    """
    left = first.shape[1] - rows  # Q - rows
    rest = second[:, :left] if join == "first rows" else second[:, rows:]
    return torch.cat([first[:, :rows], rest], dim=1)


@contextmanager
def _first(encoder: VisionEncoder, rows: int | None) -> Iterator[None]:
    """Use the first so many rows meanwhile."""
    encoder.use_first(rows)
    try:
        yield
    finally:
        encoder.use_first(None)
