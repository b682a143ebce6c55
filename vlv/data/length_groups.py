"""The samples of a step by the length of their captions, so that few tokens of a micro-batch are padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import cast

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
    rows = [row for batch in step for row in batch["input_ids"]]
    captions = [row[:length].tolist() for row, length in zip(rows, lengths.tolist(), strict=True)]
    parts = [part.tolist() for part in order.split([len(batch["positions"]) for batch in step])]
    # In pinned memory again where the loader had put them there, else copies to the GPU would be waited for.
    pinned = step[0]["input_ids"].is_pinned()
    found: list[dict[str, object]] = []
    for part in parts:
        padded = pad_captions([captions[row] for row in part], pad_token_id)
        ids, labels = padded["input_ids"], padded["labels"]
        if pinned:
            ids, labels = ids.pin_memory(), labels.pin_memory()
        found.append({"input_ids": ids, "labels": labels})
    for key in step[0]:
        if key not in found[0]:
            values = [row for batch in step for row in cast("Mapping[str, Iterable[object]]", batch)[key]]
            for batch, part in zip(found, parts, strict=True):
                batch[key] = _joined([values[row] for row in part], pinned)
    return cast("list[PairBatch]", found)


def _joined(rows: list[object], pinned: bool) -> object:
    """One micro-batch's value of its samples' rows: a tensor [B, ...], or a list."""
    tensors = [row for row in rows if isinstance(row, Tensor)]
    if not tensors:
        return rows
    joined = torch.empty((len(tensors), *tensors[0].shape), dtype=tensors[0].dtype, pin_memory=pinned)
    return torch.stack(tensors, out=joined)
