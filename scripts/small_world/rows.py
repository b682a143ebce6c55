"""Rows of the embedded world's ablation table: what each trains, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.small_world.measures import (
    composition,
    family,
    measured_captions,
    measured_pictures,
    own_model,
    sentences,
    untrained_stage1,
)
from scripts.small_world.pretrain import main as pretrain
from vlv.shapes.runs import (
    FAMILY,
    GUIDANCE,
    KEPT_LEGS,
    LEGS,
    ROOT,
    SHORT_LEGS,
    SHORT_READING_LR,
    SHORT_STAGE2,
    Data,
    RunError,
    pictures_seen,
    relative,
    train_captioner,
    train_stage1,
    train_stage2,
)

# Of most rows' pictures. The tower is at hand and quick; EfficientNet's distances are the full recipe's.
SHORT_PICTURES: dict[str, Any] = {"steps": 25, "extractor": "vision_tower"}
SENTENCES = 1_000  # true descriptions that the frozen decoder draws
WEIGHT = 3.0  # of the denoising loss beside the caption loss
Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Where everything lies.

    kept: take the stage-1 models that are in the repository, instead of training them.
    """

    out: Path
    data: Data
    kept: bool = False

    def leg_final(self, count: int) -> Path:
        """Where stage 1 after a run of the full recipe is, or will be."""
        if self.kept and count in KEPT_LEGS:
            return KEPT_LEGS[count]
        return self.out / "full" / ("stage1" if count == len(LEGS) else f"stage1_leg{count}") / "final"

    def leg(self, count: int) -> Path:
        """Stage 1 after the first `count` runs of the full recipe; what is there needs none of the runs before it."""
        final = self.leg_final(count)
        if final.is_dir():
            return final
        steps, lr = LEGS[count - 1]
        settings: dict[str, Any] = {"num_steps": steps, "lr": lr, "seed": 41 + count}
        if count > 1:
            settings["initial_checkpoint"] = self.leg(count - 1)
        return train_stage1(final.parent, "stage1_shapes.yaml", self.data, **settings)

    def full_stage1(self) -> Path:
        """Stage 1 of the full recipe."""
        return self.leg(len(LEGS))

    def short_stage1(self) -> Path:
        """Stage 1 of the rows' shorter recipe."""
        return self.leg(SHORT_LEGS)

    def begun_stage1(self, name: str, **settings: Any) -> Path:
        """Stage 1 as the full recipe's first run makes it, with other settings."""
        run = self.out / "short" / f"stage1_{name}"
        return train_stage1(run, "stage1_shapes.yaml", self.data, num_steps=LEGS[0][0], val_pictures=0, **settings)

    def short_stage2(self, stage1: Path, name: str = "base", **settings: Any) -> Path:
        """Stage 2 of the rows' shorter recipe: the quickstart's."""
        run = self.out / "short" / f"stage2_{name}"
        return train_stage2(run, self.data, stage1, SHORT_STAGE2, reading_lr=SHORT_READING_LR, **settings)

    def full_stage2(self) -> Path:
        """Stage 2 of the full recipe."""
        return train_stage2(self.full_run(), self.data, self.full_stage1())

    def full_run(self) -> Path:
        """Where stage 2 of the full recipe goes."""
        return self.out / "full" / "stage2"

    def base_run(self) -> Path:
        """Where stage 2 of the shorter recipe goes."""
        return self.out / "short" / "stage2_base"

    def short_results(self, name: str, stage1: Path, captioner: Path) -> Result:
        """Measures of one row of the shorter recipe: captions, and pictures drawn with `stage1`."""
        folder = self.out / "measured" / name
        # Rows of one stage 1 share its pictures.
        drawn_in = self.out / "measured" / ("base" if stage1 == self.leg_final(SHORT_LEGS) else name)
        told = measured_captions(captioner, self.data.test, folder)
        return {**told, **measured_pictures(stage1, self.data.drawn, drawn_in, GUIDANCE, **SHORT_PICTURES)}

    def left(self, name: str, stage1: Path, captioner: Path) -> Result:
        """What the embeddings of an encoder that stage 2 has trained still draw."""
        model = own_model(stage1, captioner, self.out / "short" / f"own_{name}")
        folder = self.out / "measured" / name / "own"
        drawn = measured_pictures(model, self.data.drawn, folder, GUIDANCE, **SHORT_PICTURES)
        return {"own_reconstruction_f1": drawn["reconstruction_f1"]}


def full(world: World) -> Result:
    """The full recipe, on held-out scenes and on scenes of held-out pairs of colour and shape."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    unseen = world.out / "measured" / "full_unseen"
    moved = own_model(stage1, captioner, world.out / "full" / "own")
    own = world.out / "measured" / "full" / "own"
    left = measured_pictures(moved, world.data.drawn, own, GUIDANCE, extractor="vision_tower")
    return {
        **measured_captions(captioner, world.data.test, world.out / "measured" / "full"),
        **measured_pictures(stage1, world.data.test, world.out / "measured" / "full", GUIDANCE),
        "own_reconstruction_f1": left["reconstruction_f1"],
        **{f"unseen_{k}": v for k, v in measured_captions(captioner, world.data.unseen, unseen).items()},
        **{f"unseen_{k}": v for k, v in measured_pictures(stage1, world.data.unseen, unseen, GUIDANCE).items()},
    }


def guidance(world: World) -> Result:
    """Reconstruction by guidance, and what the frozen decoder draws from the true sentence; half of the test scenes."""
    stage1 = world.full_stage1()
    result: Result = {}
    for scale in (1.0, GUIDANCE, 2.0, 3.0, 4.0):
        folder = world.out / "measured" / f"guidance_{scale:g}"
        drawn = measured_pictures(stage1, world.data.drawn, folder, scale, extractor="vision_tower")
        result[f"reconstruction_f1_at_{scale:g}"] = drawn["reconstruction_f1"]
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
        captioner = world.short_stage2(stage1, name, encoder_waits=encoder_waits)
        return measured_captions(captioner, world.data.test, world.out / "measured" / name)

    return row


def without_stage1_full(world: World) -> Result:
    """As many steps of stage 2 as the full recipe has, the encoder in training from the first on, without stage 1."""
    stage1, name = untrained_stage1(world.out / "short" / "untrained"), "without_stage1_full"
    captioner = train_stage2(world.out / "full" / f"stage2_{name}", world.data, stage1, encoder_waits=False)
    return measured_captions(captioner, world.data.test, world.out / "measured" / name)


def unfrozen(*parts: str) -> Callable[[World], Result]:
    """Stage 2 with some parts trained and the encoder as stage 1 left it."""

    def row(world: World) -> Result:
        stage1, name = world.short_stage1(), "_".join(parts)
        reading = world.base_run() if "llm" in parts else None  # the same as when the encoder trains after it
        captioner = world.short_stage2(stage1, name, train=parts, reading_of=reading)
        result = world.short_results(name, stage1, captioner)
        return {**result, "own_reconstruction_f1": result["reconstruction_f1"]}

    return row


def denoising_kept(world: World) -> Result:
    """All of stage 2 trains, and the denoising loss stays on beside the caption loss."""
    stage1 = world.short_stage1()
    settings = {"diffusion_weight": WEIGHT, "reading_of": world.base_run()}
    captioner = world.short_stage2(stage1, "denoising_kept", **settings)
    result = world.short_results("denoising_kept", stage1, captioner)
    return {**result, **world.left("denoising_kept", stage1, captioner)}


def one_encoder(world: World) -> Result:
    """The full stage 1, then stage 2 with the denoising loss kept on: one encoder that captions and reconstructs."""
    stage1 = world.full_stage1()
    run, folder = world.out / "full" / "stage2_one_encoder", world.out / "measured" / "one_encoder"
    captioner = train_stage2(run, world.data, stage1, diffusion_weight=WEIGHT, reading_of=world.full_run())
    own = own_model(stage1, captioner, world.out / "full" / "own_one_encoder")
    drawn = measured_pictures(own, world.data.test, folder, GUIDANCE)
    told = measured_captions(captioner, world.data.test, folder)
    return {**told, **drawn, "own_reconstruction_f1": drawn["reconstruction_f1"]}


def queries(count: int) -> Callable[[World], Result]:
    """Another number of learned queries, from nothing."""

    def row(world: World) -> Result:
        stage1 = world.begun_stage1(f"queries_{count}", num_queries=count)
        return world.short_results(f"queries_{count}", stage1, world.short_stage2(stage1, f"queries_{count}"))

    return row


def after(legs: int) -> Callable[[World], Result]:
    """Stage 1 after another number of the full recipe's runs."""

    def row(world: World) -> Result:
        stage1, name = world.leg(legs), f"pictures_leg{legs}"
        return world.short_results(name, stage1, world.short_stage2(stage1, name))

    return row


def own_tasks_tower(world: World) -> Result:
    """The vision tower that Florence-2's own tasks trained, without a read-out head."""
    work = world.out / "short" / "pretrain"
    pretrain(["own_tasks", "--out", str(FAMILY), "--work", str(work)])
    stage1 = world.begun_stage1("own_tasks", florence2_model_path=work / "own_tasks" / "florence2")
    return world.short_results("own_tasks", stage1, world.short_stage2(stage1, "own_tasks"))


def smollm2(world: World) -> Result:
    """A real language model on the full stage 1's embeddings."""
    llm = ROOT / "pretrained_checkpoints" / "SmolLM2-135M"
    if not llm.is_dir():
        raise RunError(f"{relative(llm)} is not there: bash scripts/small_world/install_smollm2.sh makes it")
    run = world.out / "full" / "stage2_smollm2"
    captioner = train_captioner(
        run, world.data, world.full_stage1(), "stage2_shapes_smollm2.yaml", train=("mlp", "llm"), qwen_model=llm
    )
    return measured_captions(captioner, world.data.test, world.out / "measured" / "smollm2")


def of_the_family(world: World) -> Result:
    """What the frozen parts can do by themselves, on 1,000 test scenes."""
    return {**family(), "sentence_f1": sentences(world.out, GUIDANCE, SENTENCES)["f1"]}


def composed(world: World) -> Result:
    """Two pictures' embeddings, joined and drawn."""
    return composition(world.full_stage1(), world.out / "measured" / "composition")


def _seen(legs: int) -> str:
    return f"stage 1 has seen {pictures_seen(legs):,} pictures"


# In the order of the table: the one encoder that both captions and draws comes first.
ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "one_encoder": ("one encoder: full recipe, denoising loss kept on in stage 2", one_encoder),
    "full": ("full recipe", full),
    "family": ("the frozen parts", of_the_family),
    "guidance": ("reconstruction by guidance", guidance),
    "composition": ("two pictures' embeddings, joined", composed),
    "base": (f"shorter recipe: {_seen(SHORT_LEGS)}", base),
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
    "pictures_leg1": (_seen(1), after(1)),
    "pictures_leg2": (_seen(2), after(2)),
    "pictures_leg7": (_seen(7), after(7)),
    "queries_4": (f"4 queries, {_seen(1)}", queries(4)),
    "queries_8": (f"8 queries, {_seen(1)}", queries(8)),
    "queries_16": (f"16 queries, {_seen(1)}", queries(16)),
    "own_tasks_tower": (f"tower trained by Florence's own tasks alone, {_seen(1)}", own_tasks_tower),
    "smollm2": ("full stage 1, SmolLM2-135M instead of the tiny Qwen2, encoder frozen", smollm2),
}
