"""Train one part of the small world's components, starting from random weights; pretrain.sh beside it runs them all.

Each part is a run of its own in WORK/PART with metrics.jsonl and checkpoints; called again, it resumes from the
newest. The finished part is written into OUT, in the layout of the hub's folders, in fp16.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import option, require

if TYPE_CHECKING:
    from scripts.small_world.pretraining.parts import Part


@dataclass(frozen=True)
class Recipe:
    """How one part is trained: optimizer steps, samples of a step, peak learning rate (cosine to 0)."""

    steps: int
    batch_size: int
    lr: float


RECIPES = {
    "vae": Recipe(1800, 32, 5e-3),
    "text_encoder": Recipe(1600, 64, 1e-3),
    "tower": Recipe(4000, 32, 1e-3),
    "florence2": Recipe(1500, 64, 8e-3),
    "own_tasks": Recipe(2500, 64, 8e-3),
    "qwen": Recipe(4000, 32, 8e-3),
    "qwen_refine": Recipe(2500, 32, 4e-3),  # from the first one's end: sizes are looked up last
    "unet": Recipe(2500, 64, 8e-3),
    "unet_finish": Recipe(2000, 64, 4e-3),  # from the first one's end: the text must win over noisy latents
    "unet_longer": Recipe(4000, 64, 4e-3),  # the same again
}
LATENT_SCENES = 48_000
SEED = 42


@dataclass(frozen=True)
class PretrainConfig:
    """Which part is trained, and where everything goes."""

    part: str = option("", f"one of tokenizers, {', '.join(RECIPES)}")
    out: str = option("./outputs/pretrain_tiny/family", "folder of the components", path="local")
    work: str = option("./outputs/pretrain_tiny", "runs, logs, checkpoints", path="local")
    precision: Literal["auto", "bf16", "fp32"] = option("auto", "number format; auto is what is fastest here")
    steps: int | None = option(None, "train for another number of steps than the recipe's")

    def __post_init__(self) -> None:
        known = ["tokenizers", *RECIPES]
        require(self.part in known, "part", self.part, f"give one of {', '.join(known)}")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "give at least 1, or null")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and train."""
    call = Call("python -m scripts.small_world.pretrain", __doc__ or "", positional=("part",))
    config = parse(PretrainConfig, call, sys.argv[1:] if arguments is None else arguments)
    load_libraries()
    try:
        pretrain(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def write_tokenizers(out: Path) -> None:
    """Train the three tokenizers and write all that is not weights."""
    from scripts.small_world.pretraining.architecture import build_tokenizers, save_tokenizers, tokenizer_sentences

    save_tokenizers(out, build_tokenizers(tokenizer_sentences()))


def pretrain(config: PretrainConfig) -> None:
    """Train one part and write it, unless it is finished."""
    if config.part == "tokenizers":
        write_tokenizers(Path(config.out))
        return
    import torch

    from scripts.small_world.pretraining import parts

    folder = Path(config.work) / config.part
    finished = folder / "finished"
    if finished.exists():
        print(f"{config.part} is finished; remove {folder} to train it again", file=sys.stderr)
        return
    torch.manual_seed(SEED)
    built = parts.build(config.part, Path(config.out), Path(config.work), SEED, LATENT_SCENES)
    fit(folder, config, built)
    built.save()
    finished.touch()
    print(f"written: {config.out} ({config.part})", file=sys.stderr)


def fit(folder: Path, config: PretrainConfig, part: Part) -> None:
    """Train a part to the end of its recipe, in its folder."""
    from functools import partial

    from scripts.small_world.pretraining.samples import scene_loader
    from vlv.checkpoints.resume import find_checkpoint
    from vlv.checkpoints.retention import Retention
    from vlv.training.checkpoint import Checkpointer
    from vlv.training.metrics import MetricLogger
    from vlv.training.optim import build_optimizer, lr_at
    from vlv.training.parts import TrainerSettings, TrainingParts
    from vlv.training.precision import check_precision, choose_precision, fastest_precision
    from vlv.training.processes import start_processes
    from vlv.training.state import TrainState
    from vlv.training.trainer import Trainer

    recipe = RECIPES[config.part]
    steps = config.steps or recipe.steps
    precision = fastest_precision() if config.precision == "auto" else config.precision
    # Of a GPU's `auto`: on a CPU nothing is left to choose.
    precision = choose_precision(0).precision if precision == "auto" else check_precision(precision)
    accelerator = start_processes(precision)
    optimizer = build_optimizer(part.objective, recipe.lr, kind="muon")
    objective, optimizer = accelerator.prepare(part.objective, optimizer)
    identity = {"part": config.part, "steps": steps}
    checkpointer = Checkpointer(
        folder / "checkpoints", accelerator, retention=Retention(1), identity=identity, write_extras=lambda _: None
    )
    found = find_checkpoint("latest", folder / "checkpoints")
    state = checkpointer.load(found, objective, optimizer) if found else TrainState()
    logger = MetricLogger(folder, enabled=True, num_steps=steps, first_step=state.step)
    Trainer(
        TrainingParts(
            accelerator=accelerator,
            objective=objective,
            optimizer=optimizer,
            loader=scene_loader(part.sample, recipe.batch_size, state.samples),
            checkpointer=checkpointer,
            logger=logger,
        ),
        TrainerSettings(
            num_steps=steps,
            global_batch_size=recipe.batch_size,
            accumulation=1,
            micro_batch_size=recipe.batch_size,
            max_grad_norm=1.0,
            save_step=max(1, steps // 5),
            log_every=50,
            seed=SEED,
        ),
        state=state,
        lr_at=partial(lr_at, lr=recipe.lr, schedule="cosine", num_steps=steps, warmup_steps=min(100, steps // 10)),
        validate=lambda _: {f"val/{name}": value for name, value in part.evaluate().items()},
    ).fit()
    logger.close()


if __name__ == "__main__":
    main()
