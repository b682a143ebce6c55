"""The samples of a source by their position in the order, and the loader that reads them in worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import cast

import torch
from torch.utils.data import DataLoader, Dataset

from vlv.batch import Batch
from vlv.data.latent_cache import facts_of
from vlv.data.mixture import MixedOrder, MixedSource
from vlv.data.order import SampleOrder
from vlv.data.preparation import PreparedSample, SamplePreparation
from vlv.data.sample import SampleSource
from vlv.data.transforms import silence_pillow


class OrderedDataset(Dataset[PreparedSample]):
    """The samples of a source, by their position in the order."""

    def __init__(
        self,
        source: SampleSource,
        order: SampleOrder | MixedOrder,
        prepare: SamplePreparation,
        num_samples: int | None = None,
        first_captions: bool = False,
    ) -> None:
        """Join source and order; positions from `num_samples` on are padding (None: the order is endless).

        Of several captions, one is read in each epoch of the sample's source; `first_captions`: always the first.
        """
        self._source, self._order, self._num_samples = source, order, num_samples
        self._first_captions = first_captions
        self._mixture = source if isinstance(source, MixedSource) else None
        self._latents = facts_of(source)
        self._prepare = prepare
        self.collate = prepare.collate

    def __getitem__(self, position: int) -> PreparedSample:
        """Return the sample at `position`."""
        if self._num_samples is not None and position >= self._num_samples:
            return self._shaped(self._prepare.empty(position, "", None))
        index = self._order[position]
        epoch = None if self._first_captions else self._order.epoch(position)
        sample = self._prepare(position, self._source.name(index), lambda: self._source.read(index), epoch)
        sample["source"] = 0 if self._mixture is None else self._mixture.source_of(index)
        return self._shaped(sample)

    def _shaped(self, sample: PreparedSample) -> PreparedSample:
        """Give what stands for a missing sample the shape of its neighbours, where those are latents."""
        if self._latents is not None and not sample["weight"]:
            numbers = torch.float16 if self._latents.numbers == "fp16" else torch.float32
            sample["decoder_pixels"] = torch.zeros(self._latents.shape, dtype=numbers)
        return sample


def build_loader(
    dataset: OrderedDataset, micro_batches: Iterable[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Load the given micro-batches of positions, in their order, with `num_workers` processes (0: in this one).

    Needs num_workers x 2 batches of shared memory. One pass; build another loader for another.
    """
    # Without it the tokenizers' library warns at each fork; a caption at a time gains nothing from its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    loader: DataLoader[PreparedSample] = DataLoader(
        dataset,
        # The batches are given from outside, so that the position in the data is a number that the trainer keeps:
        # torch's samplers, and Accelerate's wrapping of them, hold state of their own that a resumed run would need.
        batch_sampler=micro_batches,  # pyright: ignore[reportArgumentType]  (any iterable of lists serves)
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        multiprocessing_context="fork" if num_workers else None,  # so that workers share the index
    )
    return cast("DataLoader[Batch]", loader)  # torch's type names what goes into collate_fn, not what comes out


def start_worker(_: int) -> None:
    """Set up a loader worker: one thread, no parallel tokenizer, no remarks of Pillow's on odd metadata.

    Ctrl-C is for the main process to handle: it reaches every process of the terminal, and a worker that died of it
    first would show as a failed loader.
    """
    silence_pillow()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # there are as many workers as cores to use; more threads would only wait for each other
    signal.signal(signal.SIGINT, signal.SIG_IGN)
