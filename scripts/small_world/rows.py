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
    own_model,
    sentences,
    untrained_stage1,
)
from scripts.small_world.pretrain import PretrainConfig, pretrain
from vlv.shapes.runs import (
    FAMILY,
    GUIDANCE,
    KEPT_PHASES,
    PHASES,
    ROOT,
    SHORT_PHASES,
    SHORT_STAGE2,
    Data,
    RunError,
    Stage2,
    Value,
    pictures_seen,
    relative,
    train_captioner,
    train_stage1,
    train_stage2,
)

# Of most rows' pictures. The tower is at hand and quick; EfficientNet's distances are the full recipe's.
SHORT_SAMPLING = Sampling(steps=25, extractor="vision_tower")
SENTENCES = 1_000  # true descriptions that the frozen decoder generates pictures from
WEIGHT = 3.0  # of the denoising loss beside the caption loss
FULL_STAGE2 = Stage2()


@dataclass(frozen=True)
class World:
    """Where everything lies.

    kept: take the stage-1 models that are in the repository, instead of training them.
    """

    out: Path
    data: Data
    kept: bool = False

    def phase_final(self, count: int) -> Path:
        """Where stage 1 after a phase of the full recipe is, or will be."""
        if self.kept and count in KEPT_PHASES:
            return KEPT_PHASES[count]
        return self.out / "full" / ("stage1" if count == len(PHASES) else f"stage1_phase{count}") / "final"

    def phase(self, count: int) -> Path:
        """Stage 1 after the first `count` phases of the full recipe; what is there needs none of those before it."""
        final = self.phase_final(count)
        if final.is_dir():
            return final
        steps, lr = PHASES[count - 1]
        settings: dict[str, Value] = {"num_steps": steps, "lr": lr, "seed": 41 + count}
        if count > 1:
            settings["initial_checkpoint"] = self.phase(count - 1)
        return train_stage1(final.parent, self.data, settings)

    def full_stage1(self) -> Path:
        """Stage 1 of the full recipe."""
        return self.phase(len(PHASES))

    def short_stage1(self) -> Path:
        """Stage 1 of the rows' shorter recipe."""
        return self.phase(SHORT_PHASES)

    def begun_stage1(self, name: str, settings: dict[str, Value]) -> Path:
        """Stage 1 as the full recipe's first phase makes it, with other settings."""
        run = self.out / "short" / f"stage1_{name}"
        return train_stage1(run, self.data, {"num_steps": PHASES[0][0], "val_pictures": 0, **settings})

    def short_stage2(self, stage1: Path, name: str = "base", how: Stage2 = SHORT_STAGE2) -> Path:
        """Stage 2 of the rows' shorter recipe: the quickstart's."""
        return train_stage2(self.out / "short" / f"stage2_{name}", self.data, stage1, how)

    def full_stage2(self) -> Path:
        """Stage 2 of the full recipe."""
        return train_stage2(self.full_run(), self.data, self.full_stage1(), FULL_STAGE2)

    def full_run(self) -> Path:
        """Where stage 2 of the full recipe goes."""
        return self.out / "full" / "stage2"

    def base_run(self) -> Path:
        """Where stage 2 of the shorter recipe goes."""
        return self.out / "short" / "stage2_base"

    def short_results(self, name: str, stage1: Path, captioner: Path) -> Result:
        """Measures of one row of the shorter recipe: captions, and pictures reconstructed with `stage1`."""
        folder = self.out / "measured" / name
        # Rows of one stage 1 share its pictures.
        pictures_in = self.out / "measured" / ("base" if stage1 == self.phase_final(SHORT_PHASES) else name)
        captions = measured_captions(captioner, self.data.test, folder)
        return {**captions, **measured_pictures(stage1, self.data.subset, pictures_in, SHORT_SAMPLING)}

    def left(self, name: str, stage1: Path, captioner: Path) -> Result:
        """Reconstructions from the embeddings of an encoder that stage 2 has trained."""
        model = own_model(stage1, captioner, self.out / "short" / f"own_{name}")
        folder = self.out / "measured" / name / "own"
        measured = measured_pictures(model, self.data.subset, folder, SHORT_SAMPLING)
        return {"own_reconstruction_f1": measured["reconstruction_f1"]}


def full(world: World) -> Result:
    """The full recipe, on held-out scenes and on scenes of held-out pairs of colour and shape."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    measured, unseen = (world.out / "measured" / name for name in ("full", "full_unseen"))
    moved = own_model(stage1, captioner, world.out / "full" / "own")
    tower = replace(FULL_SAMPLING, extractor="vision_tower")
    own = measured_pictures(moved, world.data.subset, measured / "own", tower)
    on_unseen = {
        **measured_captions(captioner, world.data.unseen, unseen),
        **measured_pictures(stage1, world.data.unseen, unseen, FULL_SAMPLING),
    }
    return {
        **measured_captions(captioner, world.data.test, measured),
        **measured_pictures(stage1, world.data.test, measured, FULL_SAMPLING),
        "own_reconstruction_f1": own["reconstruction_f1"],
        **{f"unseen_{name}": value for name, value in on_unseen.items()},
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
    """The shorter recipe: 32 queries, all of stage 2 trains."""
    stage1 = world.short_stage1()
    captioner = world.short_stage2(stage1)
    return {**world.short_results("base", stage1, captioner), **world.left("base", stage1, captioner)}


def without_stage1(name: str, encoder_waits: bool) -> Callable[[World], Result]:
    """The same stage 2, from Florence-2 with new queries that stage 1 never trained."""

    def row(world: World) -> Result:
        stage1 = untrained_stage1(world.out / "short" / "untrained")
        captioner = world.short_stage2(stage1, name, replace(SHORT_STAGE2, encoder_waits=encoder_waits))
        return measured_captions(captioner, world.data.test, world.out / "measured" / name)

    return row


def without_stage1_full(world: World) -> Result:
    """As many steps of stage 2 as the full recipe has, the encoder in training from the first on, without stage 1."""
    stage1, name = untrained_stage1(world.out / "short" / "untrained"), "without_stage1_full"
    how = replace(FULL_STAGE2, encoder_waits=False)
    captioner = train_stage2(world.out / "full" / f"stage2_{name}", world.data, stage1, how)
    return measured_captions(captioner, world.data.test, world.out / "measured" / name)


def unfrozen(*parts: str) -> Callable[[World], Result]:
    """Stage 2 with some parts trained and the encoder as stage 1 left it."""

    def row(world: World) -> Result:
        stage1, name = world.short_stage1(), "_".join(parts)
        shared = world.base_run() if "llm" in parts else None  # the same as when the encoder trains after it
        captioner = world.short_stage2(stage1, name, replace(SHORT_STAGE2, train=parts, warmup_of=shared))
        result = world.short_results(name, stage1, captioner)
        return {**result, "own_reconstruction_f1": result["reconstruction_f1"]}

    return row


def denoising_kept(world: World) -> Result:
    """All of stage 2 trains, and the denoising loss stays on beside the caption loss."""
    stage1 = world.short_stage1()
    how = replace(SHORT_STAGE2, diffusion_weight=WEIGHT, warmup_of=world.base_run())
    captioner = world.short_stage2(stage1, "denoising_kept", how)
    result = world.short_results("denoising_kept", stage1, captioner)
    return {**result, **world.left("denoising_kept", stage1, captioner)}


def one_encoder(world: World) -> Result:
    """The full stage 1, then stage 2 with the denoising loss kept on: one encoder that captions and reconstructs."""
    stage1 = world.full_stage1()
    run, folder = world.out / "full" / "stage2_one_encoder", world.out / "measured" / "one_encoder"
    how = replace(FULL_STAGE2, diffusion_weight=WEIGHT, warmup_of=world.full_run())
    captioner = train_stage2(run, world.data, stage1, how)
    own = own_model(stage1, captioner, world.out / "full" / "own_one_encoder")
    pictures = measured_pictures(own, world.data.test, folder, FULL_SAMPLING)
    captions = measured_captions(captioner, world.data.test, folder)
    return {**captions, **pictures, "own_reconstruction_f1": pictures["reconstruction_f1"]}


def queries(count: int) -> Callable[[World], Result]:
    """Another number of learned queries; stage 1 starts from new ones."""

    def row(world: World) -> Result:
        stage1 = world.begun_stage1(f"queries_{count}", {"num_queries": count})
        return world.short_results(f"queries_{count}", stage1, world.short_stage2(stage1, f"queries_{count}"))

    return row


def after_phases(phases: int) -> Callable[[World], Result]:
    """Stage 1 after another number of the full recipe's phases."""

    def row(world: World) -> Result:
        stage1, name = world.phase(phases), f"pictures_phase{phases}"
        return world.short_results(name, stage1, world.short_stage2(stage1, name))

    return row


def own_tasks_tower(world: World) -> Result:
    """The vision tower that Florence-2's own tasks trained, without a read-out head."""
    work = world.out / "short" / "pretrain"
    pretrain(PretrainConfig(part="own_tasks", out=str(FAMILY), work=str(work)))
    stage1 = world.begun_stage1("own_tasks", {"florence2_model_path": work / "own_tasks" / "florence2"})
    return world.short_results("own_tasks", stage1, world.short_stage2(stage1, "own_tasks"))


def smollm2(world: World) -> Result:
    """A real language model on the full stage 1's embeddings."""
    llm = ROOT / "pretrained_checkpoints" / "SmolLM2-135M"
    if not llm.is_dir():
        raise RunError(f"{relative(llm)} is not there: bash scripts/small_world/install_smollm2.sh makes it")
    run, stage1 = world.out / "full" / "stage2_smollm2", world.full_stage1()
    captioner = train_captioner(run, world.data, stage1, "stage2_shapes_smollm2", {"qwen_model": llm})
    return measured_captions(captioner, world.data.test, world.out / "measured" / "smollm2")


def of_the_family(world: World) -> Result:
    """What the frozen parts can do by themselves, on 1,000 test scenes."""
    return {**family(), "sentence_f1": sentences(world.out, GUIDANCE, SENTENCES)["f1"]}


def composed(world: World) -> Result:
    """Two pictures' embeddings, joined."""
    out = world.out / "measured" / "composition"
    return {**compose(CompositionConfig(ckpt_dir=str(world.full_stage1()), out=str(out)))}


def _seen(phases: int) -> str:
    return f"stage 1 has seen {pictures_seen(phases):,} pictures"


# In the order of the table: the one encoder that both captions and reconstructs comes first.
ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "one_encoder": ("one encoder: full recipe, denoising loss kept on in stage 2", one_encoder),
    "full": ("full recipe", full),
    "family": ("the frozen parts", of_the_family),
    "guidance": ("reconstruction by guidance", guidance),
    "composition": ("two pictures' embeddings, joined", composed),
    "base": (f"shorter recipe: {_seen(SHORT_PHASES)}", base),
    "without_stage1": ("without stage 1, same pairs", without_stage1("without_stage1", True)),
    "without_stage1_at_once": (
        "without stage 1, the encoder trains from the first step on",
        without_stage1("without_stage1_at_once", False),
    ),
    "without_stage1_full": (
        "full stage 2 without stage 1, the encoder trains from the first step on",
        without_stage1_full,
    ),
    "train_mlp": ("stage 2 trains the MLP alone", unfrozen("mlp")),
    "train_mlp_llm": ("stage 2 trains MLP and language model", unfrozen("mlp", "llm")),
    "denoising_kept": (f"stage 2 with diffusion_weight={WEIGHT:g}", denoising_kept),
    "pictures_phase1": (_seen(1), after_phases(1)),
    "pictures_phase2": (_seen(2), after_phases(2)),
    "pictures_phase7": (_seen(7), after_phases(7)),
    "queries_4": (f"4 queries, {_seen(1)}", queries(4)),
    "queries_8": (f"8 queries, {_seen(1)}", queries(8)),
    "queries_16": (f"16 queries, {_seen(1)}", queries(16)),
    "own_tasks_tower": (f"tower trained by Florence's own tasks alone, {_seen(1)}", own_tasks_tower),
    "smollm2": ("full stage 1, SmolLM2-135M instead of the tiny Qwen2, encoder frozen", smollm2),
}
