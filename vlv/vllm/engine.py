"""Captions by vLLM: images are encoded here, and their rows are what its language model goes on from.

Requests are handed over as soon as their images are encoded, and come back as they are done, so that vLLM's batch stays
full from one batch of images to the next. Its engine is a process of its own, which works while images are encoded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from vlv.checkpoints.pretrained import load_tokenizer
from vlv.inference.blocks import REASON
from vlv.inference.captions import CaptionSearch
from vlv.inference.images import ImageBatch
from vlv.inference.journal import JsonObject
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.image_rows import ImageRows
from vlv.models.texts import caption_texts
from vlv.vllm import DRIVER

_AT_ONCE = 256  # sequences that vLLM may work on
_AHEAD = 2 * _AT_ONCE  # and that are handed over: enough that its batch is full while the next images are encoded

_QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TORCH_LOGS": "-torch._library",  # says that there is no Triton
    # The second is of memory that vLLM shares, which its process leaves to the tracker at the end.
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker",
}


@dataclass
class Captioned:
    """An image that is done.

    ids: token ids of its captions, which end with the end token where they came to it; none where it cannot be read.
    reason: why it cannot be read.
    left: captions that are still to come.
    """

    index: int
    name: str
    ids: list[list[int]]
    reason: str | None = None
    left: int = 0


class VllmCaptioner:
    """A captioner with vLLM's language model; see `vlv.inference.captions.StreamCaptioner`."""

    def __init__(self, folder: str, rows: ImageRows, max_new_tokens: int | None, cache_gib: float) -> None:
        """Start vLLM.

        Args:
            folder: the captioner's.
            rows: its encoder, on its device and in its number format, which is vLLM's too.
            max_new_tokens: longest caption; None is what the captioner was trained with.
            cache_gib: memory for the keys and values of the sequences in work.

        Raises:
            ValueError: vLLM cannot run the language model, or a cache that does not hold one caption.
        """
        self._rows = rows
        config = VLVCaptionerConfig.from_pretrained(folder)
        self._tokenizer = load_tokenizer(Path(folder), "ckpt_dir")
        self._eos: int = config.eos_token_id or 0
        self._limit = max_new_tokens or GenerationConfig.from_pretrained(folder).max_new_tokens
        self._llm = _start(folder, rows, rows.num_image_tokens + self._limit, cache_gib)
        self._pending: dict[str, tuple[Captioned, int]] = {}  # by request, with the place of its caption

    @property
    def image_processor(self) -> VLVImageProcessor:
        """Turns a PIL image into pixels."""
        return self._rows.image_processor

    def records(self, batches: Iterable[ImageBatch], search: CaptionSearch) -> Iterator[list[JsonObject]]:
        """Records of images as they are done, readable or not; the search is greedy or sampled."""
        for images in self.captioned(batches, search):
            yield [self._record(image, search) for image in images]

    def captioned(self, batches: Iterable[ImageBatch], search: CaptionSearch) -> Iterator[list[Captioned]]:
        """The images as they are done, several or none at once."""
        for batch in batches:
            yield [Captioned(bad.index, bad.name, [], bad.reason) for bad in batch.bad]
            self._hand_over(batch, search)
            while len(self._pending) > _AHEAD:
                yield self._wait()
        while self._pending:
            yield self._wait()

    def _record(self, image: Captioned, search: CaptionSearch) -> JsonObject:
        place: JsonObject = {"index": image.index, "name": image.name}
        if image.reason is not None:
            return {**place, REASON: image.reason}
        texts = caption_texts(self._tokenizer, image.ids, self._eos, search.end_at_sentence)
        return {**place, "captions": search.framed(texts)}

    def _hand_over(self, batch: ImageBatch, search: CaptionSearch) -> None:
        """Encode a batch and queue its captions."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

        if not batch.names:
            return
        prompts, params, places = [], [], []
        rows_of_all = self._rows(batch.encoder_pixels).cpu()
        for index, name, rows in zip(batch.indices, batch.names, rows_of_all, strict=True):
            seeds = search.seeds(name) if search.temperature else [None]
            image = Captioned(index, name, [[] for _ in seeds], left=len(seeds))
            for place, seed in enumerate(seeds):
                prompts.append({"prompt_embeds": rows})
                places.append((image, place))
                params.append(
                    SamplingParams(temperature=search.temperature, seed=seed, max_tokens=self._limit, detokenize=False)
                )
        made = self._llm.enqueue(prompts, params, use_tqdm=False)
        # Its outputs have the names without what vLLM appends to make them unique.
        self._pending |= zip((name.rpartition("-")[0] or name for name in made), places, strict=True)

    def _wait(self) -> list[Captioned]:
        """Wait for vLLM's next outputs; the images whose captions are then all there."""
        done: list[Captioned] = []
        for output in self._llm.llm_engine.step():
            if output.finished:
                image, place = self._pending.pop(output.request_id)
                image.ids[place] = list(output.outputs[0].token_ids)
                image.left -= 1
                if not image.left:
                    done.append(image)
        return done


def _start(folder: str, rows: ImageRows, length: int, cache_gib: float) -> Any:
    """vLLM's engine over the captioner's language model alone, which takes embeddings as prompts.

    Raises:
        ValueError: see `VllmCaptioner`.
    """
    # Before it is imported, for its processes too. They speak of their own parts; what goes wrong comes as an error.
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ[DRIVER] = str(os.getpid())
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # here, where torch has read its variable
    from vllm import LLM  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    try:
        return LLM(
            folder,
            dtype=str(rows.compute_dtype).removeprefix("torch."),
            enable_prompt_embeds=True,
            limit_mm_per_prompt={"image": 0},  # the encoder is here
            enable_prefix_caching=False,  # two images have no rows in common
            max_model_len=length,
            max_num_seqs=_AT_ONCE,
            kv_cache_memory_bytes=int(cache_gib * 2**30),
            enforce_eager=not torch.cuda.is_available(),
            seed=0,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"vLLM does not start ({reason}); VLLM_LOGGING_LEVEL=INFO shows what it says") from None
