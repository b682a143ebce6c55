"""The captioner as the engine of a server: batches, and text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlv.models.captioner import VLVCaptioner
from vlv.models.seeded import seeded_sampling
from vlv.serving.batching import Asked, Said

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer gives for part of a character


class CaptionEngine:
    """Captions batches with transformers' generation; see `vlv.serving.batching.Engine`."""

    def __init__(self, captioner: VLVCaptioner) -> None:
        """Hold the captioner, on its device and in its number format."""
        self._captioner = captioner
        self._ends = {captioner.eos_token_id, captioner.config.pad_token_id}

    @property
    def prompt_tokens(self) -> int:
        """Rows that an image has in front of its caption."""
        return self._captioner.num_image_tokens

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a caption, at most, its end included: what generation_config.json says."""
        captioner = self._captioner
        return captioner.generation_config.max_new_tokens or captioner.config.max_caption_tokens + 1

    def run(
        self,
        pixels: Sequence[Tensor],
        asked: Asked,
        seeds: Sequence[Sequence[int]],
        on_text: Callable[[int, int, str], None] | None = None,
        is_over: Callable[[int], bool] | None = None,
    ) -> list[list[Said]]:
        """Captions of uint8 images [3, E, E], `asked.count` of each."""
        captioner, options = self._captioner, {}
        if asked.max_new_tokens is not None:
            options["max_new_tokens"] = asked.max_new_tokens
        if is_over is not None:
            options["stopping_criteria"] = StoppingCriteriaList([_NobodyWaits(len(pixels), is_over)])
        if asked.temperature:
            options |= seeded_sampling(seeds, asked.temperature)
        else:
            options["num_beams"] = asked.num_beams
        can_stream = on_text is not None and options["num_beams"] == 1
        streamer = _TextStreamer(self, asked.count, on_text) if can_stream and on_text is not None else None
        found = captioner.generate(pixel_values=torch.stack(list(pixels)), streamer=streamer, **options)
        rows = [self._said(row) for row in found[:, captioner.num_image_tokens :].tolist()]
        if streamer is not None:
            streamer.finish(rows)
        said = [rows[start : start + asked.count] for start in range(0, len(rows), asked.count)]
        if on_text is not None and streamer is None:  # beams are known at the end alone
            for image, own in enumerate(said):
                for caption, one in enumerate(own):
                    on_text(image, caption, one.text)
        return said

    def text(self, tokens: list[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self._captioner.tokenizer.decode(tokens, skip_special_tokens=True))

    def _said(self, row: list[int]) -> Said:
        end = next((place for place, token in enumerate(row) if token in self._ends), None)
        tokens = row if end is None else row[:end]
        return Said(self.text(tokens).strip(), len(tokens), end is not None)


class _NobodyWaits(StoppingCriteria):
    """Ends the sequences of images that are over, and with the last of them the batch."""

    def __init__(self, images: int, is_over: Callable[[int], bool]) -> None:
        self._images, self._is_over = images, is_over

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of each sequence [B n] whether it ends; an image's n captions, or beams, follow one another."""
        over = torch.tensor([self._is_over(image) for image in range(self._images)], device=input_ids.device)
        return over.repeat_interleave(len(input_ids) // self._images)


class _TextStreamer(BaseStreamer):
    """Tokens of several sequences become text; what is said is what the whole caption begins with."""

    def __init__(self, engine: CaptionEngine, count: int, on_text: Callable[[int, int, str], None]) -> None:
        self._engine, self._count, self._on_text = engine, count, on_text
        self._rows: list[list[int]] | None = None
        self._sent: list[str] = []
        self._ended: list[bool] = []

    def put(self, value: Tensor) -> None:
        """The prompt [B, S] first, then a token of each sequence, [B]."""
        if self._rows is None:
            self._rows = []
            return
        if not self._rows:
            self._rows = [[] for _ in value]
            self._sent, self._ended = ["" for _ in value], [False for _ in value]
        for place, token in enumerate(value.tolist()):
            self._ended[place] = self._ended[place] or token in self._engine._ends  # pyright: ignore[reportPrivateUsage]
            if not self._ended[place]:
                self._rows[place].append(token)
                text = self._engine.text(self._rows[place]).lstrip()
                # Blanks at the end are kept back: the last ones are not part of the caption.
                if not text.endswith(_UNFINISHED) and text == text.rstrip():
                    self._send(place, text)

    def end(self) -> None:
        """Generation has ended; `finish` sends what is left."""

    def finish(self, said: Sequence[Said]) -> None:
        """Send what of the whole captions was not sent."""
        self._sent = self._sent or ["" for _ in said]
        for place, one in enumerate(said):
            self._send(place, one.text)

    def _send(self, place: int, text: str) -> None:
        if text.startswith(self._sent[place]) and len(text) > len(self._sent[place]):
            self._on_text(*divmod(place, self._count), text[len(self._sent[place]) :])
            self._sent[place] = text
