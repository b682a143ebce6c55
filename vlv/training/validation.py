"""The validation loss: fixed samples, fixed noise, each sample once over all processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from vlv.training.objective import Batch, Objective
from vlv.training.window import named_terms, term_means


@torch.no_grad()
def validation_loss(accelerator: Accelerator, objective: nn.Module, loader: Iterable[Batch]) -> dict[str, float]:
    """Mean of each loss term over the real samples of a loader, and how many are bad; the same on every process.

    Args:
        objective: an `Objective`, prepared; in eval mode.
        loader: as many batches on every process, since FSDP gathers weights in each forward pass; padding has weight
            0. Each batch has `errors`, one entry a sample, None for a usable one.

    Raises:
        ValueError: no sample can be used.
    """
    bare = cast("Objective", accelerator.unwrap_model(objective))
    names = list(bare.loss_weights)
    totals = torch.zeros(2, len(names), device=accelerator.device)
    bad = torch.zeros((), device=accelerator.device)

    def stack(terms: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([terms[name].float() for name in names])

    for batch in loader:
        on_device = cast("Batch", send_to_device(batch, accelerator.device))
        totals += torch.stack([stack(objective(on_device)), stack(bare.counts(on_device))])
        bad += sum(error is not None for error in cast("Sequence[str | None]", batch["errors"]))
    totals, bad = cast("tuple[Tensor, Tensor]", accelerator.reduce((totals, bad), reduction="sum"))
    sums, counts = totals.tolist()
    if not any(counts):
        raise ValueError(f"none of the {int(bad)} validation samples can be used; bad_samples.jsonl says why")
    means = dict(zip(names, term_means(sums, counts), strict=True))
    loss = sum(weight * means[name] for name, weight in bare.loss_weights.items())
    terms = named_terms("val", means, dict(zip(names, counts, strict=True)))
    return {"val/loss": loss, **terms, "val/bad_samples": int(bad)}
