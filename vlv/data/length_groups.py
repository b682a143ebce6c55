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

    A step keeps its samples, so its loss and gradients are the same sums, and nothing changes in the order of the data
    or in what a run resumes from. What is drawn at random for rows of a forward pass, such as dropout, falls on other
    samples. The longest come first because a GPU's allocator serves the shorter ones from their memory.
    """
    remaining = iter(batches)
    while grouped := _by_length(list(islice(remaining, count)), pad_token_id):
        while grouped:
            yield grouped.pop(0)  # not held here while the step computes


def _by_length(step: list[PairBatch], pad_token_id: int) -> list[PairBatch]:
    """As many micro-batches of the same sizes, of nothing none."""
    if not step:
        return []
    lengths = torch.cat([(batch["labels"] != IGNORED).sum(1) for batch in step])
    order = lengths.argsort(descending=True, stable=True)
    captions = [row[:length].tolist() for row, length in zip(_rows(step, "input_ids"), lengths.tolist(), strict=True)]
    parts = [part.tolist() for part in order.split([len(batch["positions"]) for batch in step])]
    # In pinned memory again where the loader had put them there, else copies to the GPU would be waited for.
    pinned = step[0]["input_ids"].is_pinned()
    found: list[dict[str, Any]] = []
    for part in parts:
        padded = pad_captions([captions[row] for row in part], pad_token_id)
        found.append({key: value.pin_memory() if pinned else value for key, value in cast("Any", padded).items()})
    for key in step[0]:
        if key not in found[0]:
            rows = _rows(step, key)
            for batch, part in zip(found, parts, strict=True):
                batch[key] = _joined([rows[row] for row in part], pinned)
    return cast("list[PairBatch]", found)


def _rows(step: list[PairBatch], key: str) -> list[Any]:
    """What each sample of a step has under a key."""
    return [row for batch in step for row in batch[key]]


def _joined(rows: list[Any], pinned: bool) -> Tensor | list[Any]:
    """One micro-batch's value of its samples' rows."""
    if not isinstance(rows[0], Tensor):
        return rows
    joined = torch.empty((len(rows), *rows[0].shape), dtype=rows[0].dtype, pin_memory=pinned)
    return torch.stack(cast("list[Tensor]", rows), out=joined)
