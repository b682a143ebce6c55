"""The samples of a source by their position in the order, and the loader that reads them in worker processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.utils.data import Dataset

from vlv.batch import Batch
from vlv.data.formats import LOADER_TIMEOUT
from vlv.data.latent_cache import facts_of
from vlv.data.loader import WorkerLoader, load_batches
from vlv.data.mixture import MixedOrder, MixedSource
from vlv.data.order import SampleOrder
from vlv.data.preparation import PreparedSample, SamplePreparation
from vlv.data.sample import SampleSource


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
    dataset: OrderedDataset,
    micro_batches: Iterable[list[int]],
    num_workers: int,
    pin_memory: bool,
    timeout: float = LOADER_TIMEOUT,
) -> WorkerLoader[Batch]:
    """Load the given micro-batches of positions, as `load_batches`."""
    return load_batches(dataset, micro_batches, dataset.collate, num_workers, timeout, pin_memory)
