"""Rows of the small world's ablation table: what each trains, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.small_world.composition import CompositionConfig, compose
from scripts.small_world.evaluate import (
    FULL_SAMPLING,
    Result,
    Sampling,
    family,
    measured_captions,
    measured_pictures,
    mean_and_range,
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

SHORT_SAMPLING = Sampling(
    steps=25, extractor="vision_tower"
)  # of most rows; EfficientNet's distances are the full recipe's
SENTENCES = 1_000  # true descriptions that the frozen decoder generates pictures from
WEIGHT = 3.0  # of the denoising loss beside the caption loss
SEEDS = (42, 43, 44)
RATES = (1e-3, 2e-3, 4e-3)  # the same search for every arm of stage 2
# Rates of stage 1 as published, on which it depends more.
PUBLISHED_RATES = (2e-3, 8e-3)
NESTED = 0.5  # share of forward passes
AS_PUBLISHED: Settings = {"num_queries": 32, "region_grid": "null", "train": "language_model", "keep_results": 0}
# As many samples as both stages of the short recipe see.
MATCHED_STEPS = 2 * quickstart.STAGE1_STEPS + quickstart.STAGE2_STEPS  # stage 1 sees 64 a step, stage 2 32


@dataclass(frozen=True)
class World:
    """Where everything lies.

    kept: take the stage-1 model that is in the repository, instead of training it.
    """

    out: Path
    data: Data
    kept: bool = False

    def full_stage1(self) -> Path:
        """Stage 1 of the full recipe."""
        return TRAINED / "stage1" if self.kept else train_stage1(self.out / "full" / "stage1", self.data, {})

    def full_stage2(self) -> Path:
        """Stage 2 of the full recipe."""
        return train_stage2(self.out / "full" / "stage2", self.data, self.full_stage1(), {})

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
    """The full recipe, on held-out scenes and on scenes of held-out pairs of colour and shape."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    measured, unseen = (world.out / "measured" / name for name in ("full", "full_unseen"))
    on_unseen = {
        **measured_captions(captioner, world.data.unseen, unseen),
        **measured_pictures(stage1, world.data.unseen, unseen, FULL_SAMPLING),
    }
    own = own_model(stage1, captioner, world.out / "full" / "own")
    return {
        **world.captions("full", captioner),
        **measured_pictures(stage1, world.data.test, measured, FULL_SAMPLING),
        # On the same scenes as before stage 2.
        "own_reconstruction_f1": measured_pictures(own, world.data.test, measured / "own", FULL_SAMPLING)[
            "reconstruction_f1"
        ],
        **{f"unseen_{name}": value for name, value in on_unseen.items()},
    }


def one_encoder(world: World) -> Result:
    """The full stage 1, then stage 2 with the denoising loss kept on: one encoder that captions and reconstructs."""
    stage1, folder = world.full_stage1(), world.out / "measured" / "one_encoder"
    captioner = train_stage2(
        world.out / "full" / "stage2_one_encoder", world.data, stage1, {"diffusion_weight": WEIGHT}
    )
    own = own_model(stage1, captioner, world.out / "full" / "own_one_encoder")
    pictures = measured_pictures(own, world.data.test, folder, FULL_SAMPLING)
    return {
        **world.captions("one_encoder", captioner),
        **pictures,
        "own_reconstruction_f1": pictures["reconstruction_f1"],
    }


def guidance(world: World) -> Result:
    """Pictures by guidance, from embeddings and from the true sentence; half of the test scenes."""
    stage1 = world.full_stage1()
    result: Result = {}
    for scale in (1.0, GUIDANCE, 2.0, 3.0, 4.0):
        folder = world.out / "measured" / f"guidance_{scale:g}"
        sampling = Sampling(guidance=scale, extractor="vision_tower")
        measured = measured_pictures(stage1, world.data.subset, folder, sampling)
        result[f"reconstruction_f1_at_{scale:g}"] = measured["reconstruction_f1"]
        result[f"sentence_f1_at_{scale:g}"] = sentences(world.out, scale, SENTENCES // 2)["f1"]
    return result


def base(world: World) -> Result:
    """The quickstart's recipe, three seeds of both stages."""
    return mean_and_range(_base(world, seed) for seed in SEEDS)


def _base(world: World, seed: int) -> Result:
    name = _seeded("base", seed)
    stage1 = world.short_stage1(name, {"seed": seed})
    captioner = world.short_stage2(name, stage1, {"seed": seed})
    before, after = world.pictures(name, stage1), world.after_stage2(name, stage1, captioner)
    return {**world.captions(name, captioner), **before, **after}


def _seeded(name: str, seed: int) -> str:
    return name if seed == SEEDS[0] else f"{name}_seed{seed}"


def _of_stage2(name: str, start: Callable[[World], Path], settings: Settings) -> Callable[[World], Result]:
    """Stage 2 with other settings: the best of the rates by validation loss with the first seed, then all seeds."""

    def row(world: World) -> Result:
        stage1 = start(world)

        def trained(rate: float, seed: int) -> Path:
            run = _seeded(f"{name}_lr{rate:g}", seed)
            return world.short_stage2(run, stage1, {**settings, "lr": rate, "seed": seed})

        losses = {rate: validation_loss(trained(rate, SEEDS[0])) for rate in RATES}
        best = min(losses, key=lambda rate: losses[rate])
        measured = mean_and_range(world.captions(_seeded(name, seed), trained(best, seed)) for seed in SEEDS)
        return {**measured, "lr": best, "validation_loss": losses[best]}

    return row


def _untrained(world: World) -> Path:
    """A stage 1 that has learned nothing: one step at a rate of nothing, so that what reads regions is whitened."""
    return world.short_stage1("untrained", {"num_steps": 1, "lr": 1e-12})


def _trained(world: World) -> Path:
    return world.short_stage1()


def published_stage1(optimizer: str) -> Callable[[World], Result]:
    """Stage 1 with learned queries and BART, as published, for as many steps, at the better of two rates."""

    def row(world: World) -> Result:
        def trained(rate: float) -> Path:
            settings = {**AS_PUBLISHED, "optimizer": optimizer, "lr": rate}
            return world.short_stage1(f"published_{optimizer}_lr{rate:g}", settings)

        losses = {rate: validation_loss(trained(rate)) for rate in PUBLISHED_RATES}
        best = min(losses, key=lambda rate: losses[rate])
        name = f"published_{optimizer}"
        return {**world.pictures(name, trained(best)), "lr": best, "validation_loss": losses[best]}

    return row


def adamw(world: World) -> Result:
    """Stage 1 of the quickstart by AdamW, at the better of two rates."""
    losses = {
        rate: validation_loss(world.short_stage1(f"adamw_lr{rate:g}", {"optimizer": "adamw", "lr": rate}))
        for rate in (3e-3, 6e-3)
    }
    best = min(losses, key=lambda rate: losses[rate])
    stage1 = world.short_stage1(f"adamw_lr{best:g}", {"optimizer": "adamw", "lr": best})
    return {**world.pictures("adamw", stage1), "lr": best, "validation_loss": losses[best]}


def denoising_kept(world: World) -> Result:
    """All of stage 2 trains, and the denoising loss stays on beside the caption loss."""
    stage1 = world.short_stage1()
    captioner = world.short_stage2("denoising_kept", stage1, {"diffusion_weight": WEIGHT})
    result = {**world.captions("denoising_kept", captioner), **world.pictures("base", stage1)}
    return {**result, **world.after_stage2("denoising_kept", stage1, captioner)}


def rows_kept(world: World) -> Result:
    """F1 of captions and of pictures by the number of rows that are read, where both stages had nested dropout."""
    settings: Settings = {"nested_dropout": NESTED}
    stage1 = world.short_stage1("nested", settings)
    captioner = world.short_stage2("nested", stage1, settings)
    plain, plain_captioner = world.short_stage1(), world.short_stage2("base", world.short_stage1())
    result: Result = {}
    for rows in range(1, 11):
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
    captioner = train_stage2(run, world.data, stage1, {"qwen_model": llm}, "stage2_shapes_smollm2")
    unseen = measured_captions(captioner, world.data.unseen, world.out / "measured" / "smollm2_unseen")
    return {**world.captions("smollm2", captioner), **{f"unseen_{name}": value for name, value in unseen.items()}}


def of_the_family(world: World) -> Result:
    """What the frozen parts can do by themselves, on 1,000 test scenes."""
    return {**family(), "sentence_f1": sentences(world.out, GUIDANCE, SENTENCES)["f1"]}


def composed(world: World) -> Result:
    """Two pictures' embeddings, joined."""
    out = world.out / "measured" / "composition"
    return {**compose(CompositionConfig(ckpt_dir=str(world.full_stage1()), out=str(out)))}


# In the order of the table: the one encoder that both captions and reconstructs comes first.
ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "one_encoder": ("one encoder: full recipe, denoising loss kept on in stage 2", one_encoder),
    "full": ("full recipe", full),
    "family": ("the frozen parts", of_the_family),
    "guidance": ("reconstruction by guidance", guidance),
    "composition": ("two pictures' embeddings, joined", composed),
    "base": ("the quickstart's recipe", base),
    "at_once": ("the same, rate of stage 2 searched", _of_stage2("at_once", _trained, {})),
    "encoder_waits": (
        "the encoder stays as stage 1 left it",
        _of_stage2("encoder_waits", _trained, {"train": "[mlp,llm]"}),
    ),
    "mlp_alone": ("stage 2 trains the MLP alone", _of_stage2("mlp_alone", _trained, {"train": "[mlp]"})),
    "without_stage1": ("without stage 1, as many steps of stage 2", _of_stage2("without_stage1", _untrained, {})),
    "without_stage1_matched": (
        "without stage 1, as many samples as both stages see",
        _of_stage2("without_stage1_matched", _untrained, {"total_steps": MATCHED_STEPS}),
    ),
    "denoising_kept": (f"stage 2 with diffusion_weight={WEIGHT:g}", denoising_kept),
    "rows_kept": ("F1 by rows kept", rows_kept),
    "adamw": ("stage 1 by AdamW", adamw),
    "published_muon": ("stage 1 with 32 learned queries and BART alone", published_stage1("muon")),
    "published": ("the same by AdamW", published_stage1("adamw")),
    "own_tasks_tower": ("tower trained by Florence's own tasks alone", own_tasks_tower),
    "smollm2": ("full stage 1, SmolLM2-135M instead of the tiny Qwen2, encoder frozen", smollm2),
}
