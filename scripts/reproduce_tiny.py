"""The paper's questions on the embedded world: the full recipe, then the rows of the ablation table.

Every row is resumable and skipped where its result is there. `--only NAME` runs one row; `--list` names them.
Results go to OUT/results.json, OUT/table.md and OUT/report.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.entry import FAILED_RUN, stop
from scripts.pretrain_tiny import main as pretrain
from scripts.tiny_measures import (
    composition,
    measured_captions,
    measured_pictures,
    own_model,
    sentences,
    untrained_stage1,
)
from scripts.tiny_report import write_results
from scripts.tiny_runs import (
    FAMILY,
    GUIDANCE,
    LEGS,
    ROOT,
    SHORT_LEGS,
    SHORT_READING_LR,
    SHORT_STAGE2,
    Data,
    RunError,
    make_data,
    pictures_seen,
    relative,
    say,
    train_stage1,
    train_stage2,
)

SMOLLM2_STAGE2 = (300, 100)  # steps of both runs
# Of most rows' pictures. The tower is at hand and quick; EfficientNet's distances are the full recipe's.
SHORT_PICTURES: dict[str, Any] = {"steps": 25, "extractor": "vision_tower"}
WEIGHT = 3.0  # of the denoising loss beside the caption loss
Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Where everything lies."""

    out: Path
    data: Data

    def leg(self, count: int) -> Path:
        """Stage 1 after the first `count` runs of the full recipe; what is there needs none of the runs before it."""
        run = self.out / "full" / ("stage1" if count == len(LEGS) else f"stage1_leg{count}")
        if (run / "final").is_dir():
            return run / "final"
        steps, lr = LEGS[count - 1]
        settings: dict[str, Any] = {"num_steps": steps, "lr": lr, "seed": 41 + count}
        if count > 1:
            settings["initial_checkpoint"] = self.leg(count - 1)
        return train_stage1(run, "stage1_shapes.yaml", self.data, **settings)

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

    def short_results(self, name: str, stage1: Path, captioner: Path, moved: bool = True) -> Result:
        """Measures of one row of the shorter recipe: captions, and pictures drawn with `stage1`.

        moved: stage 2 trained the encoder; what its embeddings still draw is measured too.
        """
        folder, test = self.out / "measured" / name, self.data.test
        # Rows of one stage 1 share its pictures.
        drawn_in = self.out / "measured" / ("base" if stage1 == self.short_stage1() else name)
        result = measured_captions(captioner, test, folder)
        result |= measured_pictures(stage1, test, drawn_in, GUIDANCE, **SHORT_PICTURES)
        own = result["reconstruction_f1"]
        if moved:
            model = own_model(stage1, captioner, self.out / "short" / f"own_{name}")
            own = measured_pictures(model, test, folder / "own", GUIDANCE, **SHORT_PICTURES)["reconstruction_f1"]
        return {**result, "own_reconstruction_f1": own}


def full(world: World) -> Result:
    """The full recipe, on held-out scenes and on scenes of held-out pairs of colour and shape."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    unseen = world.out / "measured" / "full_unseen"
    moved = own_model(stage1, captioner, world.out / "full" / "own")
    left = measured_pictures(moved, world.data.test, world.out / "measured" / "full" / "own", GUIDANCE)
    return {
        **measured_captions(captioner, world.data.test, world.out / "measured" / "full"),
        **measured_pictures(stage1, world.data.test, world.out / "measured" / "full", GUIDANCE),
        "own_reconstruction_f1": left["reconstruction_f1"],
        **{f"unseen_{k}": v for k, v in measured_captions(captioner, world.data.unseen, unseen).items()},
        **{f"unseen_{k}": v for k, v in measured_pictures(stage1, world.data.unseen, unseen, GUIDANCE).items()},
    }


def guidance(world: World) -> Result:
    """Reconstruction by guidance, and what the frozen decoder draws from the true sentence."""
    stage1 = world.full_stage1()
    result: Result = {}
    for scale in (1.0, GUIDANCE, 2.0, 3.0, 4.0):
        full = scale == GUIDANCE
        folder = world.out / "measured" / ("full" if full else f"guidance_{scale:g}")
        extractor = "efficientnet_lite0" if full else "vision_tower"
        drawn = measured_pictures(stage1, world.data.test, folder, scale, extractor=extractor)
        result[f"reconstruction_f1_at_{scale:g}"] = drawn["reconstruction_f1"]
        result[f"sentence_f1_at_{scale:g}"] = sentences(world.out, scale)["f1"]
    return result


def base(world: World) -> Result:
    """The shorter recipe: 32 queries, all of stage 2 trains."""
    stage1 = world.short_stage1()
    return world.short_results("base", stage1, world.short_stage2(stage1))


def without_stage1(world: World) -> Result:
    """The same stage 2, from Florence-2 with new queries that stage 1 never trained."""
    stage1 = untrained_stage1(world.out / "short" / "untrained")
    captioner = world.short_stage2(stage1, "without_stage1")
    return measured_captions(captioner, world.data.test, world.out / "measured" / "without_stage1")


def unfrozen(*parts: str) -> Callable[[World], Result]:
    """Stage 2 with some parts trained and the encoder as stage 1 left it."""

    def row(world: World) -> Result:
        stage1, name = world.short_stage1(), "_".join(parts)
        reading = world.base_run() if "llm" in parts else None  # the same as when the encoder trains after it
        captioner = world.short_stage2(stage1, name, train=parts, reading_of=reading)
        return world.short_results(name, stage1, captioner, moved=False)

    return row


def denoising_kept(world: World) -> Result:
    """All of stage 2 trains, and the denoising loss stays on beside the caption loss."""
    stage1 = world.short_stage1()
    settings = {"diffusion_weight": WEIGHT, "reading_of": world.base_run()}
    captioner = world.short_stage2(stage1, "denoising_kept", **settings)
    return world.short_results("denoising_kept", stage1, captioner)


def one_encoder(world: World) -> Result:
    """The full stage 1, then stage 2 with the denoising loss kept on: one encoder that captions and draws."""
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
        raise RunError(f"{relative(llm)} is not there: bash scripts/install_smollm2.sh makes it")
    run = world.out / "full" / "stage2_smollm2"
    configs = ("stage2_shapes_smollm2.yaml", "stage2_shapes_smollm2.yaml")
    captioner = train_stage2(run, world.data, world.full_stage1(), SMOLLM2_STAGE2, configs=configs, qwen_model=llm)
    return measured_captions(captioner, world.data.test, world.out / "measured" / "smollm2")


def composed(world: World) -> Result:
    """Halves of two pictures' embeddings, joined and drawn."""
    return composition(world.full_stage1(), world.out / "measured" / "composition")


def _seen(legs: int) -> str:
    return f"stage 1 has seen {pictures_seen(legs):,} pictures"


ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "full": ("full recipe", full),
    "guidance": ("reconstruction by guidance", guidance),
    "one_encoder": ("full recipe, denoising loss kept on in stage 2", one_encoder),
    "composition": ("two pictures' embeddings, halved and joined", composed),
    "base": (f"shorter recipe: {_seen(SHORT_LEGS)}", base),
    "without_stage1": ("without stage 1, same pairs", without_stage1),
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
    "smollm2": ("SmolLM2-135M instead of the tiny Qwen2", smollm2),
}
OPTIONAL = ("smollm2",)  # needs more than the project installs


def main(arguments: list[str] | None = None) -> None:
    """Read the call and run the rows."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/reproduce_tiny.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "reproduce_tiny", metavar="OUT")
    parser.add_argument("--only", choices=list(ROWS), action="append", help="this row alone; repeatable")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:<22} {title}" for name, (title, _) in ROWS.items()))
        return
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    world = World(out, make_data(out / "data", pictures=100_000, pairs=8_000, test=1_000))
    try:
        for name in options.only or [name for name in ROWS if name not in OPTIONAL]:
            run_row(name, world)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def run_row(name: str, world: World) -> None:
    """Run a row unless its result is there, and write table and report anew."""
    path = world.out / "rows" / f"{name}.json"
    if not path.exists():
        say(f"row {name}")
        result = ROWS[name][1](world)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    write_results(world.out, {row: title for row, (title, _) in ROWS.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
