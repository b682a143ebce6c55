"""What each decoder costs at full size, counted without weights on the meta device, as rows of a Markdown table.

For stage 1 in bf16 (the VAE and what trains in fp32): parameters, TFLOP of one image, memory that a step takes whatever
its batch and for each image, and the micro-batch that a card should take. Needs no weights, GPU or network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from vlv.decoders.layout import read_layout
from vlv.decoders.settings import ConditioningKind, DecoderSettings
from vlv.encoders.layout import read_encoder_layout
from vlv.encoders.settings import EncoderSettings
from vlv.resources import recipes_folder
from vlv.settings import option, require

if TYPE_CHECKING:
    from vlv.models.autoencoder import VLVAutoEncoder

COMPONENTS = recipes_folder() / "components"
DECODERS = (
    "stable-diffusion-v1-5",
    "stable-diffusion-2-1-base",
    "stable-diffusion-2-1",
    "stable-diffusion-xl-base-1.0",
    "stable-diffusion-3.5-medium",
    "stable-diffusion-3.5-large",
)
# As many ids as Florence-2's <MORE_DETAILED_CAPTION> has, spelled out: their number counts, not their values.
PROMPT_IDS = tuple(range(14))
USABLE = 0.9  # of a card's memory; the rest is the allocator's and the libraries'
HEAD = ("decoder", "px", "conditioning", "frozen, B", "trained, M", "forward, TFLOP", "backward, TFLOP", "fixed, GiB",
        "GiB an image", "checkpointed", "micro-batch", "checkpointed")  # fmt: skip


@dataclass(frozen=True)
class SizeConfig:
    """Which models are sized."""

    decoder: str = option("", "folder of a decoder, or a name in configs/components; several by commas; empty is all")
    florence2: str = option("Florence-2-large", "folder of Florence-2, or a name in configs/components")
    queries: int = option(77, "learned queries")
    resolution: int = option(384, "side in pixels of the square that the decoder sees")
    encoder_resolution: int = option(768, "side in pixels of the square that the encoder sees")
    conditioning: Literal["all", "text_encoder", "clip", "direct"] = option(
        "all", "how embeddings reach the denoiser; all is a row for each that the decoder has"
    )

    @property
    def encoder(self) -> EncoderSettings:
        """How the encoder is built."""
        return EncoderSettings(self.queries, self.encoder_resolution)

    def __post_init__(self) -> None:
        for key in ("queries", "resolution", "encoder_resolution"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")


@dataclass(frozen=True)
class PlanConfig(SizeConfig):
    """Which models are sized, and for which card."""

    memory: float = option(80.0, "memory of the card in GB")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.memory > 0, "memory", self.memory, "give the card's GB")


def variants(config: SizeConfig) -> Iterator[tuple[Path, ConditioningKind]]:
    """Folder and conditioning of each model; their configs are checked before anything is built.

    Raises:
        ValueError: a folder that is none, or a size that it cannot take.
    """
    for name in [name.strip() for name in config.decoder.split(",") if name.strip()] or DECODERS:
        layout = read_layout(component(name))
        known: list[ConditioningKind] = [
            kind for kind in get_args(ConditioningKind) if kind != "clip" or layout.family.t5 is not None
        ]
        kinds: list[ConditioningKind] = known if config.conditioning == "all" else [config.conditioning]
        for kind in kinds:
            layout.check(DecoderSettings(kind, config.resolution))
            read_encoder_layout(component(config.florence2)).check(config.encoder, layout.spaces(kind), len(PROMPT_IDS))
            yield layout.folder, kind


def component(name: str) -> Path:
    """A component's folder: a path, or a name among the published configs."""
    shipped = COMPONENTS / name
    return shipped if shipped.is_dir() else Path(name).expanduser()


@dataclass(frozen=True)
class Cost:
    """What stage 1 on a decoder costs.

    frozen, trained: parameters. forward, backward: TFLOP of one image. fixed: GiB of a step whatever its batch. image,
    image_again: GiB that one more image takes, and where activations are computed again in backward.
    """

    frozen: int
    trained: int
    forward: float
    backward: float
    fixed: float
    image: float
    image_again: float

    def fits(self, memory: float, again: bool = False) -> int:
        """Images at once on a card of so many GB, activations computed again or not; 0 where not one fits."""
        # Cards are sold in GB; all else here is in GiB.
        room = USABLE * memory * 1e9 / 2**30 - self.fixed
        return max(0, int(room / (self.image_again if again else self.image)))


def cost(folder: Path, conditioning: ConditioningKind, config: SizeConfig) -> Cost:
    """Count what a decoder costs, on the meta device."""
    from vlv.planning.meta_step import count_flops, enable_checkpointing
    from vlv.planning.size import parameter_counts

    model = build(folder, conditioning, config)
    trained, frozen = parameter_counts(model)
    # First, as it casts the model; checkpointing last, as it cannot be switched off again.
    fixed = fixed_gib(model)
    forward, backward = count_flops(model)
    whole = gib_an_image(model)
    enable_checkpointing(model)
    return Cost(frozen, trained, forward, backward, fixed, whole, gib_an_image(model))


def plan(folder: Path, conditioning: ConditioningKind, config: PlanConfig) -> list[str]:
    """One row of the table, in the order of `HEAD`."""
    found = cost(folder, conditioning, config)
    fits = [str(found.fits(config.memory, again)) for again in (False, True)]
    sizes = f"{found.frozen / 1e9:.2f}", f"{found.trained / 1e6:.0f}"
    work = f"{found.forward:.2f}", f"{found.backward:.2f}", f"{found.fixed:.1f}"
    how = [folder.name, str(config.resolution), conditioning]
    return [*how, *sizes, *work, f"{found.image:.2f}", f"{found.image_again:.2f}", *fits]


def shipped_component(source: str) -> Path | None:
    """The published config of a component that a folder's or a hub id's last name tells; None where there is none."""
    name = Path(source).name
    return COMPONENTS / name if name and (COMPONENTS / name).is_dir() else None


def build(
    folder: Path,
    conditioning: ConditioningKind,
    config: SizeConfig,
    device: str = "meta",
    settings: EncoderSettings | None = None,
) -> VLVAutoEncoder:
    """Stage 1's model in fp32, without weights on the meta device, with random ones on another.

    Args:
        settings: of the encoder, where it has more than `config` names.
    """
    import torch

    from vlv.decoders import build_decoder
    from vlv.encoders.florence2 import VLVEncoder, new_config
    from vlv.encoders.florence2_layout import read_config
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.image_processor import VLVImageProcessor

    decoder = build_decoder(folder, DecoderSettings(conditioning, config.resolution), device)
    settings = settings or config.encoder
    florence2 = read_config(component(config.florence2)).to_dict()
    encoder_config = new_config(florence2, decoder.conditioner.spaces, settings, list(PROMPT_IDS))
    with torch.device(device):
        encoder = VLVEncoder(encoder_config)
    processor = VLVImageProcessor(config.resolution, config.encoder_resolution)
    return VLVAutoEncoder(encoder, decoder, processor, {}, conditioning).train()


def fixed_gib(model: VLVAutoEncoder) -> float:
    """GiB that a step takes whatever its batch: weights, buffers, gradients, optimizer, and autocast's bf16 copies of
    what trains. Casts the model as stage 1 does: bf16, the VAE and what trains in fp32.
    """
    import torch

    from vlv.planning.size import memory_estimate, parameter_counts

    model.set_dtypes(torch.bfloat16, torch.float32)
    return (sum(memory_estimate(model).values()) + 2 * parameter_counts(model)[0]) / 2**30


def gib_an_image(model: VLVAutoEncoder) -> float:
    """GiB that one more image takes, of a model that `fixed_gib` has cast, in batches that keep a card busy."""
    from vlv.planning.meta_step import loss_of, peak_gib

    # A difference, so that what lives whatever the batch cancels.
    more, fewer = (peak_gib(model, partial(loss_of, model, batch)) for batch in (16, 8))
    return (more - fewer) / 8
