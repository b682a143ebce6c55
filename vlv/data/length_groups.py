"""The samples of a step by the length of their captions, so that few tokens of a micro-batch are padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor

from vlv.batch import PairBatch
from vlv.data.captions import pad_captions
from vlv.losses import IGNORED


def group_by_length(batches: Iterable[PairBatch], count: int, pad_token_id: int) -> Iterator[PairBatch]:
    """Deal the samples of each `count` micro-batches, a step of this process, to as many anew, longest captions first.

    A step keeps its samples, so its loss and gradients stay what they are, and with them the order of the data and
    what a run resumes from. The longest come first because a GPU's allocator serves the shorter ones from their memory.
    """
    remaining = iter(batches)
    while step := list(islice(remaining, count)):
        yield from _by_length(step, pad_token_id)


def _by_length(step: list[PairBatch], pad_token_id: int) -> Iterator[PairBatch]:
    lengths = torch.cat([(batch["labels"] != IGNORED).sum(1) for batch in step])
    order = lengths.argsort(descending=True, stable=True)
    captions = [row for batch in step for row in batch["input_ids"]]
    for rows in order.split([len(batch["positions"]) for batch in step]):
        numbers = rows.tolist()
        chosen: dict[str, Any] = {key: _chosen([batch[key] for batch in step], numbers) for key in _own_keys(step[0])}
        padded = pad_captions([captions[row][: lengths[row]].tolist() for row in numbers], pad_token_id)
        yield cast("PairBatch", {**chosen, **padded})


def _own_keys(batch: PairBatch) -> list[str]:
    """What is chosen row by row; captions are padded anew."""
    return [key for key in batch if key not in ("input_ids", "labels")]


def _chosen(values: list[Any], rows: list[int]) -> Tensor | list[Any]:
    """These rows of what several micro-batches hold."""
    every = [row for value in values for row in value]
    chosen = [every[row] for row in rows]
    first = values[0]
    if not isinstance(first, Tensor):
        return chosen
    # In pinned memory again where the loader had put it there, else the copy to the GPU would be waited for.
    stacked = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, pin_memory=first.is_pinned())
    return torch.stack(cast("list[Tensor]", chosen), out=stacked)
