"""Rows of the small world's ablation table: what each trains, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.small_world.composition import CompositionConfig, compose
from scripts.small_world.evaluate import (
    FULL_SAMPLING,
    Result,
    Sampling,
    family,
    mean_and_range,
    measured_captions,
    measured_pictures,
    sentences,
    validation_loss,
)
from scripts.small_world.pretrain import PretrainConfig, pretrain
from vlv.shapes import quickstart
from vlv.shapes.runs import (
    FAMILY,
    GUIDANCE,
    ROOT,
    TRAINED,
    Data,
    RunError,
    Settings,
    own_model,
    relative,
    train_stage1,
    train_stage2,
)

SHORT_SAMPLING = Sampling(steps=25, extractor="vision_tower")  # EfficientNet's distances are the full recipe's
SENTENCES = 1_000  # true descriptions that the frozen decoder generates pictures from
WEIGHT = 3.0  # of the denoising loss beside the caption loss
SEEDS = (42, 43, 44)
NESTED = 0.5  # share of forward passes
ROWS_KEPT = (1, 2, 4, 6, 8, 10)
PUBLISHED_RATES = (2e-3, 8e-3)  # of stage 1 with learned queries
ADAMW_RATES = (3e-3, 6e-3)
AS_PUBLISHED: Settings = {"num_queries": 32, "region_grid": "null", "train": "language_model"}
ALL_TRAINS: Settings = {"train": "[mlp,llm,encoder]"}
# As many samples as both stages of the short recipe see: stage 1 sees 64 a step, stage 2 32.
MATCHED_STEPS = 2 * quickstart.STAGE1_STEPS + quickstart.STAGE2_STEPS


def rates(lr: float, encoder: float | None = None) -> Settings:
    """Peak rates of stage 2, the MLP's four times the language model's."""
    return {"lr": lr, "projector_lr": 4 * lr, **({} if encoder is None else {"encoder_lr": encoder})}


# The search of every arm of stage 2: two rates, and two shares of them for an encoder that trains.
FROZEN_SEARCH = (rates(4e-3), rates(8e-3))
SEARCH = tuple(rates(lr, encoder=share * lr) for lr in (4e-3, 8e-3) for share in (0.25, 1))
NESTED_RATES = SEARCH[2]  # nested dropout needs an encoder that trains; both arms have its rates


@dataclass(frozen=True)
class World:
    """Where everything lies.

    data: of the short recipe, and all held-out scenes. full_data: the full recipe's pictures and pairs.
    kept: take the stage-1 model that is in the repository, instead of training it.
    """

    out: Path
    data: Data
    full_data: Data
    kept: bool = False

    def full_stage1(self) -> Path:
        """Stage 1 of the full recipe."""
        return TRAINED / "stage1" if self.kept else train_stage1(self.out / "full" / "stage1", self.full_data, {})

    def full_stage2(self) -> Path:
        """Stage 2 of the full recipe."""
        return train_stage2(self.out / "full" / "stage2", self.full_data, self.full_stage1(), {})

    def short_stage1(self, name: str = "base", settings: Settings | None = None) -> Path:
        """Stage 1 as the quickstart trains it, with other settings."""
        given = {**quickstart.STAGE1, "val_pictures": 0, **(settings or {})}
        return train_stage1(self.out / "short" / f"stage1_{name}", self.data, given)

    def short_stage2(self, name: str, stage1: Path, settings: Settings | None = None) -> Path:
        """Stage 2 as the quickstart trains it, with other settings."""
        given = {**quickstart.STAGE2, "val_pictures": 0, **(settings or {})}
        return train_stage2(self.out / "short" / f"stage2_{name}", self.data, stage1, given)

    def captions(self, name: str, captioner: Path) -> Result:
        """Measures of captions of the test scenes."""
        return measured_captions(captioner, self.data.test, self.out / "measured" / name)

    def pictures(self, name: str, stage1: Path) -> Result:
        """Measures of reconstructions of the first test scenes."""
        return measured_pictures(stage1, self.data.subset, self.out / "measured" / name, SHORT_SAMPLING)

    def after_stage2(self, name: str, stage1: Path, captioner: Path) -> Result:
        """Reconstructions of the same scenes, from the embeddings of the encoder that stage 2 has trained."""
        own = own_model(stage1, captioner, self.out / "short" / f"own_{name}")
        return {"own_reconstruction_f1": self.pictures(f"{name}/own", own)["reconstruction_f1"]}


def full(world: World) -> Result:
    """The full recipe, one encoder for captions and pictures: held-out scenes, and scenes of held-out pairs."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    measured, unseen = (world.out / "measured" / name for name in ("full", "full_unseen"))
    on_unseen = {
        **measured_captions(captioner, world.data.unseen, unseen),
        **measured_pictures(stage1, world.data.unseen, unseen, FULL_SAMPLING),
    }
    return {
        **world.captions("full", captioner),
        **measured_pictures(stage1, world.data.test, measured, FULL_SAMPLING),
        **{f"unseen_{name}": value for name, value in on_unseen.items()},
    }


def guidance(world: World) -> Result:
    """Pictures by guidance, from embeddings and from the true sentence; half of the test scenes."""
    stage1, count = world.full_stage1(), len(list(world.data.subset.glob("*.png")))
    result: Result = {}
    for scale in (1.0, GUIDANCE, 2.0, 3.0):
        folder = world.out / "measured" / f"guidance_{scale:g}"
        sampling = Sampling(guidance=scale, extractor="vision_tower")
        measured = measured_pictures(stage1, world.data.subset, folder, sampling)
        result[f"reconstruction_f1_at_{scale:g}"] = measured["reconstruction_f1"]
        result[f"sentence_f1_at_{scale:g}"] = sentences(world.out, scale, count)["f1"]
    return result


def base(world: World) -> Result:
    """The quickstart's recipe, three seeds of both stages."""
    return mean_and_range(_base(world, seed) for seed in SEEDS)


def _base(world: World, seed: int) -> Result:
    name = _seeded("base", seed)
    stage1 = world.short_stage1(name, {"seed": seed})
    captioner = world.short_stage2(name, stage1, {"seed": seed})
    unseen = measured_captions(captioner, world.data.unseen, world.out / "measured" / f"{name}_unseen")
    pictures = world.pictures(name, stage1)
    return {**world.captions(name, captioner), **pictures, "unseen_caption_f1": unseen["caption_f1"]}


def _seeded(name: str, seed: int) -> str:
    return name if seed == SEEDS[0] else f"{name}_seed{seed}"


@dataclass(frozen=True)
class Arm:
    """An arm of stage 2, at the rates that are its best by validation loss with the first seed.

    start: makes the stage-1 model that it starts from. search: the rates that are tried. seeds: of the best one's runs.
    """

    name: str
    start: Callable[[World], Path]
    settings: Settings
    search: Sequence[Settings] = FROZEN_SEARCH
    seeds: Sequence[int] = SEEDS[:1]

    def train(self, world: World, tried: Settings, seed: int, more: Settings | None = None) -> Path:
        """Train with some of the rates."""
        values = "_".join(f"{key}{value:g}" for key, value in tried.items() if isinstance(value, float))
        given = {**self.settings, **tried, **(more or {}), "seed": seed}
        return world.short_stage2(_seeded(f"{self.name}_{values}", seed), self.start(world), given)

    def best(self, world: World) -> Settings:
        """The rates with the least validation loss."""
        return min(self.search, key=lambda tried: validation_loss(self.train(world, tried, SEEDS[0])))

    def row(self, world: World) -> Result:
        """Captions of the best one, all seeds."""
        best = self.best(world)
        runs = {seed: self.train(world, best, seed) for seed in self.seeds}
        measured = mean_and_range(world.captions(_seeded(self.name, seed), run) for seed, run in runs.items())
        numbers = {key: value for key, value in best.items() if isinstance(value, float)}
        return {**measured, **numbers, "validation_loss": validation_loss(runs[self.seeds[0]])}


def _untrained(world: World) -> Path:
    """A stage 1 that has learned nothing: one step at next to no rate, so that what reads regions is whitened."""
    return world.short_stage1("untrained", {"num_steps": 1, "lr": 1e-12})


def _trained(world: World) -> Path:
    return world.short_stage1()


def of_stage1(name: str, settings: Settings, rates: tuple[float, ...]) -> Callable[[World], Result]:
    """Stage 1 of the quickstart with other settings: the best of the rates by validation loss."""

    def row(world: World) -> Result:
        def trained(rate: float) -> Path:
            return world.short_stage1(f"{name}_lr{rate:g}", {**settings, "lr": rate})

        losses = {rate: validation_loss(trained(rate)) for rate in rates}
        best = min(losses, key=lambda rate: losses[rate])
        return {**world.pictures(name, trained(best)), "lr": best, "validation_loss": losses[best]}

    return row


def encoder_trains(world: World) -> Result:
    """Stage 2 trains the encoder too, from its first step: its captions, and what is left of its pictures."""
    best = ENCODER_TRAINS.best(world)
    captioner = ENCODER_TRAINS.train(world, best, SEEDS[0])
    return {**ENCODER_TRAINS.row(world), **world.after_stage2("encoder_trains", world.short_stage1(), captioner)}


def denoising_kept(world: World) -> Result:
    """The same with the denoising loss beside the caption loss."""
    best, stage1 = ENCODER_TRAINS.best(world), world.short_stage1()
    captioner = world.short_stage2("denoising_kept", stage1, {**ALL_TRAINS, **best, "diffusion_weight": WEIGHT})
    return {
        **world.captions("denoising_kept", captioner),
        **world.after_stage2("denoising_kept", stage1, captioner),
    }


def without_stage1_matched(world: World) -> Result:
    """Without stage 1, for as many samples as both stages see, at the rates that are best for stage 2's steps."""
    more: Settings = {"total_steps": MATCHED_STEPS}
    arm = Arm("without_stage1_matched", _untrained, {**ALL_TRAINS, **more}, [WITHOUT_STAGE1.best(world)])
    return arm.row(world)


def rows_kept(world: World) -> Result:
    """F1 of captions and of pictures by the number of rows that are read, where both stages had nested dropout."""
    settings: Settings = {"nested_dropout": NESTED}
    stage1 = world.short_stage1("nested", settings)
    captioner = world.short_stage2("nested", stage1, {**ALL_TRAINS, **settings, **NESTED_RATES})
    plain, plain_captioner = world.short_stage1(), ENCODER_TRAINS.train(world, NESTED_RATES, SEEDS[0])
    result: Result = {}
    for rows in ROWS_KEPT:
        for name, model, reader in (("nested", stage1, captioner), ("plain", plain, plain_captioner)):
            folder = world.out / "measured" / f"rows_{name}_{rows}"
            captions = measured_captions(reader, world.data.subset, folder, first_queries=rows)
            pictures = measured_pictures(model, world.data.subset, folder, replace(SHORT_SAMPLING, rows=rows))
            result |= {f"{name}_caption_f1_of_{rows}": captions["caption_f1"]}
            result |= {f"{name}_reconstruction_f1_of_{rows}": pictures["reconstruction_f1"]}
    return result


def own_tasks_tower(world: World) -> Result:
    """The vision tower that Florence-2's own tasks trained, without a read-out head."""
    work = world.out / "short" / "pretrain"
    pretrain(PretrainConfig(part="own_tasks", out=str(FAMILY), work=str(work)))
    stage1 = world.short_stage1("own_tasks", {"florence2_model_path": work / "own_tasks" / "florence2"})
    captioner = world.short_stage2("own_tasks", stage1)
    return {**world.captions("own_tasks", captioner), **world.pictures("own_tasks", stage1)}


def smollm2(world: World) -> Result:
    """A real language model on the full stage 1's embeddings, on held-out pairs too."""
    llm = ROOT / "pretrained_checkpoints" / "SmolLM2-135M"
    if not llm.is_dir():
        raise RunError(f"{relative(llm)} is not there: bash scripts/small_world/install_smollm2.sh makes it")
    run, stage1 = world.out / "full" / "stage2_smollm2", world.full_stage1()
    captioner = train_stage2(run, world.full_data, stage1, {"qwen_model": llm}, "stage2_shapes_smollm2")
    unseen = measured_captions(captioner, world.data.unseen, world.out / "measured" / "smollm2_unseen")
    return {**world.captions("smollm2", captioner), **{f"unseen_{name}": value for name, value in unseen.items()}}


def of_the_family(world: World) -> Result:
    """What the frozen parts can do by themselves, on 1,000 test scenes; the references of reconstructions."""
    measured = sentences(world.out, GUIDANCE, SENTENCES)
    return {**family(), **{f"sentence_{name}": measured[name] for name in ("f1", "exact", "clean")}}


def composed(world: World) -> Result:
    """Two pictures' embeddings, joined: of the full stage 1, and of two short ones, with nested dropout and without."""
    models = {
        "": world.full_stage1(),
        "short_": world.short_stage1(),
        "nested_": world.short_stage1("nested", {"nested_dropout": NESTED}),
    }
    result: Result = {}
    for prefix, model in models.items():
        out = world.out / "measured" / f"{prefix}composition"
        measured = compose(CompositionConfig(ckpt_dir=str(model), out=str(out)))
        result |= {f"{prefix}{key}": value for key, value in measured.items() if key != "count" or not prefix}
    return result


ENCODER_TRAINS = Arm("encoder_trains", _trained, ALL_TRAINS, SEARCH)
MLP_ALONE = Arm("mlp_alone", _trained, {"train": "[mlp]"})
RATE_SEARCH = Arm("rate_search", _trained, {})
WITHOUT_STAGE1 = Arm("without_stage1", _untrained, ALL_TRAINS, SEARCH, SEEDS)
# In the order of the table.
ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "full": ("full recipe, one encoder for captions and pictures", full),
    "family": ("the frozen parts", of_the_family),
    "guidance": ("reconstruction by guidance", guidance),
    "composition": ("two pictures' embeddings, joined", composed),
    "base": ("the quickstart's recipe, three seeds of both stages", base),
    "rate_search": ("the same, rates of stage 2 searched", RATE_SEARCH.row),
    "mlp_alone": ("stage 2 trains the MLP alone", MLP_ALONE.row),
    "encoder_trains": ("stage 2 trains the encoder too", encoder_trains),
    "denoising_kept": (f"the same with diffusion_weight={WEIGHT:g}", denoising_kept),
    "without_stage1": ("without stage 1, as many steps of stage 2, three seeds", WITHOUT_STAGE1.row),
    "without_stage1_matched": ("without stage 1, as many samples as both stages see", without_stage1_matched),
    "rows_kept": ("F1 by rows kept", rows_kept),
    "adamw": ("stage 1 by AdamW", of_stage1("adamw", {"optimizer": "adamw"}, ADAMW_RATES)),
    "published_muon": (
        "stage 1 with 32 learned queries and BART alone",
        of_stage1("published_muon", AS_PUBLISHED, PUBLISHED_RATES),
    ),
    "published": (
        "the same by AdamW",
        of_stage1("published", {**AS_PUBLISHED, "optimizer": "adamw"}, PUBLISHED_RATES),
    ),
    "own_tasks_tower": ("tower trained by Florence's own tasks alone", own_tasks_tower),
    "smollm2": ("full stage 1, SmolLM2-135M instead of the tiny Qwen2, encoder frozen", smollm2),
}
