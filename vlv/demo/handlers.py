"""What the page does at each event: plain values in, values of its components out. No Gradio here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample
from vlv.data.transforms import decode_image
from vlv.demo.model import DemoModel, Join, Sampling

Upload = dict[str, Any] | None  # a file as Gradio describes it: its path here, and the name that it came with
_CUT = "The decoder's text encoder has no room for the whole text: its end was left out."


class Keep:
    """A component that stays as it is."""


KEEP = Keep()


class OneImage(NamedTuple):
    """Values of the first tab's components; note: what went wrong, empty where nothing did."""

    note: str | Keep = KEEP
    image: Keep | None = KEEP
    caption: str | Keep = KEEP
    drawn: Image.Image | Keep | None = KEEP
    from_text: Image.Image | Keep | None = KEEP


class TwoImages(NamedTuple):
    """Values of the second tab's components."""

    note: str | Keep = KEEP
    first: Keep | None = KEEP
    second: Keep | None = KEEP
    composed: Image.Image | Keep | None = KEEP


class Handlers:
    """One method for each event. What a user gives wrong becomes a note, and is taken off the page."""

    def __init__(self, model: DemoModel, scheduler: str = "auto", max_image_mib: int = 512) -> None:
        """Hold the model.

        Args:
            scheduler: of all pictures.
            max_image_mib: of an uploaded image once it is decoded.
        """
        self._model, self._scheduler, self._decoding = model, scheduler, DecodeSettings(max_image_mib=max_image_mib)

    def show(self, file: Upload, rows: float, *sampling: float) -> Iterator[OneImage]:
        """The caption as it grows, then both pictures.

        Args:
            rows: of the embeddings that are read.
            sampling: guidance, steps and seed, where there are pictures.
        """
        if file is None:  # the note stays: it may say why the image went
            yield OneImage(caption="", drawn=None, from_text=None)
            return
        try:
            image = self._read(file)
        except ValueError as error:
            yield OneImage(str(error), None, "", None, None)
            return
        yield OneImage(note="", caption="", drawn=None, from_text=None)
        caption = ""
        try:
            for caption in self._model.caption(image, round(rows)):
                yield OneImage(caption=caption)
            if self._model.draws:
                yield from self._draw(image, caption, rows, *sampling)
        except ValueError as error:
            yield OneImage(note=str(error))

    def draw(self, file: Upload, caption: str, rows: float, *sampling: float) -> Iterator[OneImage]:
        """Both pictures again, as guidance, steps or seed have changed."""
        try:
            yield from self._draw(None if file is None else self._read(file), caption, rows, *sampling)
        except ValueError as error:
            yield OneImage(note=str(error))

    def draw_text(self, text: str, *sampling: float) -> Iterator[OneImage]:
        """The picture of the text alone."""
        return self.draw(None, text, 1, *sampling)

    def _draw(
        self, image: Image.Image | None, text: str, rows: float, guidance: float, steps: float, seed: float
    ) -> Iterator[OneImage]:
        sampling = self._sampling(guidance, steps, seed)
        if image is not None:
            yield OneImage(drawn=self._model.reconstruct(image, sampling, round(rows)))
        if self._model.reads_texts and text.strip():
            note = _CUT if self._model.cuts(text) else ""
            yield OneImage(note=note, from_text=self._model.draw_text(text, sampling))

    def compose(
        self, first: Upload, second: Upload, rows: float, join: Join, guidance: float, steps: float, seed: float
    ) -> TwoImages:
        """The picture from parts of two images' embeddings; none until both are there."""
        images: list[Image.Image] = []
        for place, file in enumerate((first, second)):
            if file is None:
                continue
            try:
                images.append(self._read(file))
            except ValueError as error:
                return TwoImages(str(error), *((None, KEEP) if place == 0 else (KEEP, None)), None)
        if len(images) < 2:
            return TwoImages(composed=None)
        # Also a number of steps or rows that the models do not have, which a slider does not give.
        try:
            composed = self._model.compose(
                images[0], images[1], round(rows), join, self._sampling(guidance, steps, seed)
            )
        except ValueError as error:
            return TwoImages(note=str(error))
        return TwoImages(note="", composed=composed)

    def _sampling(self, guidance: float, steps: float, seed: float) -> Sampling:
        return Sampling(round(seed), guidance, round(steps), self._scheduler)

    def _read(self, file: dict[str, Any]) -> Image.Image:
        """Decode an upload.

        Raises:
            ValueError: it cannot be read; names the file as the user knows it.
        """
        path = Path(file["path"])
        try:
            return decode_image(path.read_bytes(), self._decoding)
        except (BadSample, OSError, SyntaxError) as error:
            name = file.get("orig_name") or path.name
            raise ValueError(f"{name} cannot be read: {error}.") from None
