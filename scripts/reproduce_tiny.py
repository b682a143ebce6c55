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
from scripts.tiny_measures import (
    composition,
    measured_captions,
    measured_pictures,
    own_model,
    sentences,
    untrained_stage1,
)
from scripts.tiny_report import write_results
from scripts.tiny_runs import ROOT, Data, RunError, make_data, say, train_stage1, train_stage2

SHORT_STEPS = 1200  # stage 1 of the rows
Result = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Where everything lies."""

    out: Path
    data: Data

    def short_stage1(self, name: str = "base", **settings: Any) -> Path:
        """Stage 1 of the rows' shorter recipe."""
        values = {"num_steps": SHORT_STEPS, "save_step": SHORT_STEPS, "val_pictures": 0, **settings}
        return train_stage1(self.out / "short" / f"stage1_{name}", "stage1_shapes.yaml", self.data, **values)

    def short_stage2(self, stage1: Path, name: str = "base", **settings: Any) -> Path:
        """Stage 2 of the rows' shorter recipe: the quickstart's."""
        run = self.out / "short" / f"stage2_{name}"
        return train_stage2(run, "stage2_shapes_quick.yaml", self.data, stage1, **settings)

    def full_stage1(self) -> Path:
        """Stage 1 of the full recipe."""
        return train_stage1(self.out / "full" / "stage1", "stage1_shapes.yaml", self.data)

    def full_stage2(self) -> Path:
        """Stage 2 of the full recipe."""
        return train_stage2(self.out / "full" / "stage2", "stage2_shapes.yaml", self.data, self.full_stage1())

    def results(self, name: str, stage1: Path, captioner: Path | None) -> Result:
        """Measures of one row: captions, and pictures drawn with `stage1`."""
        folder = self.out / "measured" / name
        told = measured_captions(captioner, self.data.test, folder) if captioner else {}
        return {**told, **measured_pictures(stage1, self.data.test, folder, 2.0)}


def full(world: World) -> Result:
    """The full recipe, on held-out scenes and on scenes of held-out pairs of colour and shape."""
    stage1, captioner = world.full_stage1(), world.full_stage2()
    unseen = world.out / "measured" / "full_unseen"
    return {
        **world.results("full", stage1, captioner),
        **{f"unseen_{k}": v for k, v in measured_captions(captioner, world.data.unseen, unseen).items()},
        **{f"unseen_{k}": v for k, v in measured_pictures(stage1, world.data.unseen, unseen, 2.0).items()},
    }


def guidance(world: World) -> Result:
    """Reconstruction by guidance, and what the frozen decoder draws from the true sentence."""
    stage1 = world.full_stage1()
    result: Result = {}
    for scale in (1.0, 2.0, 3.0, 4.0):
        folder = world.out / "measured" / f"guidance_{scale:g}"
        drawn = measured_pictures(stage1, world.data.test, folder, scale)
        result[f"reconstruction_f1_at_{scale:g}"] = drawn["reconstruction_f1"]
        result[f"sentence_f1_at_{scale:g}"] = sentences(world.out, scale)["f1"]
    return result


def base(world: World) -> Result:
    """The shorter recipe: 32 queries, all of stage 2 trains."""
    stage1 = world.short_stage1()
    return world.results("base", stage1, world.short_stage2(stage1))


def without_stage1(world: World) -> Result:
    """The same stage 2, from Florence-2 with new queries that stage 1 never trained."""
    stage1 = untrained_stage1(world.out / "short" / "untrained")
    captioner = world.short_stage2(stage1, "without_stage1")
    return measured_captions(captioner, world.data.test, world.out / "measured" / "without_stage1")


def unfrozen(parts: str, weight: float = 0.0) -> Callable[[World], Result]:
    """Stage 2 with some parts unfrozen; pictures are drawn with the captioner's own encoder."""

    def row(world: World) -> Result:
        stage1 = world.short_stage1()
        name = parts.replace(",", "_") + (f"_diffusion_{weight:g}" if weight else "")
        captioner = world.short_stage2(stage1, name, train=f"[{parts}]", diffusion_weight=weight)
        own = own_model(stage1, captioner, world.out / "short" / f"own_{name}")
        return world.results(name, own, captioner)

    return row


def one_encoder(world: World) -> Result:
    """The full stage 1, then stage 2 with the denoising loss kept on: one encoder that captions and draws."""
    stage1 = world.full_stage1()
    run = world.out / "full" / "stage2_one_encoder"
    captioner = train_stage2(run, "stage2_shapes.yaml", world.data, stage1, diffusion_weight=3.0)
    own = own_model(stage1, captioner, world.out / "full" / "own_one_encoder")
    return world.results("one_encoder", own, captioner)


def queries(count: int) -> Callable[[World], Result]:
    """Another number of learned queries."""

    def row(world: World) -> Result:
        stage1 = world.short_stage1(f"queries_{count}", num_queries=count)
        return world.results(f"queries_{count}", stage1, world.short_stage2(stage1, f"queries_{count}"))

    return row


def pictures_seen(steps: int) -> Callable[[World], Result]:
    """Another number of stage-1 steps of 64 pictures."""

    def row(world: World) -> Result:
        name = f"pictures_{steps * 64}"
        stage1 = world.short_stage1(name, num_steps=steps, save_step=steps)
        return world.results(name, stage1, world.short_stage2(stage1, name))

    return row


def own_tasks_tower(world: World) -> Result:
    """The vision tower that Florence-2's own tasks trained, without a read-out head."""
    florence2 = ROOT / "outputs" / "pretrain_tiny" / "own_tasks" / "florence2"
    if not florence2.is_dir():
        raise RunError(f"{florence2} is not there: python -m scripts.pretrain_tiny own_tasks makes it")
    stage1 = world.short_stage1("own_tasks", florence2_model_path=florence2)
    return world.results("own_tasks", stage1, world.short_stage2(stage1, "own_tasks"))


def composed(world: World) -> Result:
    """Halves of two pictures' embeddings, joined and drawn."""
    return composition(world.full_stage1(), world.out / "measured" / "composition")


ROWS: dict[str, tuple[str, Callable[[World], Result]]] = {
    "full": ("full recipe", full),
    "guidance": ("reconstruction by guidance", guidance),
    "one_encoder": ("full recipe, denoising loss kept on in stage 2", one_encoder),
    "composition": ("two pictures' embeddings, halved and joined", composed),
    "base": ("shorter recipe", base),
    "without_stage1": ("without stage 1, same pairs", without_stage1),
    "train_mlp": ("stage 2 trains the MLP", unfrozen("mlp")),
    "train_mlp_llm": ("stage 2 trains MLP and language model", unfrozen("mlp,llm")),
    "train_all": ("stage 2 trains MLP, language model, encoder", unfrozen("mlp,llm,encoder")),
    "train_all_diffusion_3": ("the same with diffusion_weight 3", unfrozen("mlp,llm,encoder", 3.0)),
    "queries_4": ("4 queries", queries(4)),
    "queries_8": ("8 queries", queries(8)),
    "queries_16": ("16 queries", queries(16)),
    "pictures_19k": ("stage 1 sees 19,200 pictures", pictures_seen(300)),
    "pictures_38k": ("stage 1 sees 38,400 pictures", pictures_seen(600)),
    "pictures_154k": ("stage 1 sees 153,600 pictures", pictures_seen(2400)),
    "own_tasks_tower": ("tower trained by Florence's own tasks alone", own_tasks_tower),
}


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
        for name in options.only or ROWS:
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
