"""Which card, which settings, how long, how much: stage 1 of a decoder on cards of several kinds, from its cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlv.planning.decoders import Cost, SizeConfig
from vlv.settings import option, require

HEAD = ("decoder", "card", "settings", "images/s and card", "hours", "card-hours", "$")
# Memory in GB and TFLOP/s of dense bf16 with fp32 sums, by the vendors' data sheets; $ an hour, as a rented card costs
# about: an assumption, which `price` replaces.
CARDS = {
    "RTX 4090": (24, 165, 0.5),
    "L40S": (48, 362, 1.0),
    "A100 80 GB": (80, 312, 1.5),
    "H100 SXM": (80, 989, 2.5),
    "H200": (141, 989, 3.0),
}
_MOST = 64  # images of a micro-batch, more keep a card no busier
_FEW = 4  # with fewer, activations are computed again, so that more fit


@dataclass(frozen=True)
class TrainingPlanConfig(SizeConfig):
    """Which training is planned."""

    images: float = option(102_400_000.0, "images of the whole training; the paper's stage 1 has 200,000 steps of 512")
    cards: int = option(8, "cards at once")
    price: float | None = option(None, "$ of a card-hour; null takes a usual one of each card")
    utilisation: float = option(0.4, "share of a card's peak that is reached: an assumption, not a measurement")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.images > 0, "images", self.images, "give a positive number")
        require(self.cards >= 1, "cards", self.cards, "give at least 1")
        require(self.price is None or self.price >= 0, "price", self.price, "give null, or 0 or more")
        require(0 < self.utilisation <= 1, "utilisation", self.utilisation, "give a share above 0, up to 1")


def rows(name: str, cost: Cost, config: TrainingPlanConfig) -> Iterator[list[str]]:
    """A row for each card, in the order of `HEAD`; one on which nothing fits says so."""
    for card, (memory, peak, usual) in CARDS.items():
        kept = cost.fits(memory)
        again = kept < _FEW and cost.fits(memory, again=True) > kept
        micro = min(_MOST, cost.fits(memory, again))
        if not micro:
            yield [name, card, "none fit: `ACCELERATE_CONFIG=configs/accelerate/fsdp.yaml`", "", "", "", ""]
            continue
        # Forward once more at most: the VAE and the vision tower have no backward, so less in truth.
        work = cost.forward * (2 if again else 1) + cost.backward
        speed = config.utilisation * peak / work
        hours = config.images / speed / config.cards / 3600
        yield [
            name,
            card,
            f"`max_micro_batch={micro}{' gradient_checkpointing=true' if again else ''}`",
            f"{speed:.0f}",
            f"{hours:,.0f}",
            f"{hours * config.cards:,.0f}",
            f"{hours * config.cards * (usual if config.price is None else config.price):,.0f}",
        ]
