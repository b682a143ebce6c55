"""The validation loss: fixed samples, fixed noise, each sample once over all processes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor


@torch.no_grad()
def validation_loss(
    accelerator: Accelerator, objective: torch.nn.Module, loader: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Mean of each loss term over the real samples of a loader, and how many are bad; the same on every process.

    Args:
        objective: prepared; in eval mode.
        loader: as many batches on every process; padding has weight 0.

    Raises:
        ValueError: no sample can be used.
    """
    bare: Any = accelerator.unwrap_model(objective)
    names = list(bare.loss_weights)
    totals = torch.zeros(2, len(names), device=accelerator.device)
    bad = torch.zeros((), device=accelerator.device)

    def stack(terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([terms[name].float() for name in names])

    for batch in loader:
        on_device = send_to_device(batch, accelerator.device)
        totals += torch.stack([stack(objective(on_device)), stack(bare.counts(on_device))])
        bad += sum(error is not None for error in batch["errors"])
    reduced: Any = accelerator.reduce((totals, bad), reduction="sum")
    sums, counts = reduced[0].tolist()
    if not any(counts):
        raise ValueError(f"none of the {int(reduced[1])} validation samples can be used; bad_samples.jsonl says why")
    means = {name: sums[i] / max(1.0, counts[i]) for i, name in enumerate(names)}
    loss = sum(weight * means[name] for name, weight in bare.loss_weights.items())
    terms = {f"val/{name}_loss": value for name, value in means.items()} if len(names) > 1 else {}
    return {"val/loss": loss, **terms, "val/bad_samples": int(reduced[1])}
