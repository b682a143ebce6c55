"""VLV on the embedded world, in minutes: both stages train, both inferences run, on 64 held-out pictures.

Everything is real but the size: the components in assets/tiny are a tiny Stable Diffusion, Florence-2 and Qwen2 in the
hub's own layouts, and the four launchers run as they do on a cluster.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from vlv.cli.entry import FAILED_RUN, stop
from vlv.shapes.runs import (
    KEPT_LEGS,
    ROOT,
    SHORT_LEGS,
    SHORT_READING_LR,
    SHORT_STAGE2,
    RunError,
    caption,
    duration,
    make_data,
    pictures_seen,
    reading_run,
    reconstruct,
    relative,
    seconds_of,
    train_stage1,
)
from vlv.shapes.runs import train_stage2 as run_stage2

HELD_OUT = 64
EARLY = KEPT_LEGS[SHORT_LEGS]
KEPT = ROOT / "docs" / "embedded_world" / "results.json"  # of scripts/reproduce_tiny.sh
LABELS = {
    "caption_f1": "caption F1 (size, colour, shape, place)",
    "caption_exact": "captions without any fault",
    "caption_hallucinations": "hallucinations per caption",
    "reconstruction_f1": "reconstruction F1",
    "fd_vision_tower": "FD of reconstructions (vision tower)",
    "stage1_seconds": "stage 1, pictures alone",
    "stage2_seconds": "stage 2, captions",
    "seconds": "all of it",
    "held_out_pictures": "held-out pictures",
}
BEGUN = f"""\
Stage 1 went on from a kept earlier checkpoint, {relative(EARLY)}, which had seen
{pictures_seen(SHORT_LEGS):,} pictures. From nothing that takes hours: bash scripts/reproduce_tiny.sh."""
TO_REAL = """\
This is the small world. For the real one, get the weights with bash scripts/download_pretrained.sh and call the
launchers without CONFIG and initial_checkpoint. Three lines make the difference, and are then their defaults:
  stable_diffusion_model_path=./pretrained_checkpoints/stable-diffusion-2-1-base  (train_stage1.sh)
  florence2_model_path=./pretrained_checkpoints/Florence-2-large                  (train_stage1.sh)
  qwen_model=./pretrained_checkpoints/Qwen2.5-3B                                  (train_stage2.sh)
Give your pictures as train_dataset_path, and your pairs as dataset_path and stage 1 as diffusion_model_path."""


def main(arguments: list[str] | None = None) -> None:
    """Read the call and run."""
    parser = argparse.ArgumentParser(
        prog="bash scripts/quickstart.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "quickstart", help="where everything goes")
    parser.add_argument("--clean", action="store_true", help="remove what an earlier call made, and start afresh")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    if options.clean:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    try:
        run(out)
    except RunError as error:
        stop(str(error), FAILED_RUN)


def run(out: Path) -> None:
    """Make data, train, caption, draw, measure, report."""
    started = time.monotonic()
    data = make_data(out / "data", pictures=20_000, pairs=8_000, test=HELD_OUT)
    begun = {"initial_checkpoint": EARLY} if EARLY.is_dir() else {}
    stage1 = train_stage1(out / "stage1", "stage1_shapes_quick.yaml", data, **begun)
    captioner = run_stage2(out / "stage2", data, stage1, SHORT_STAGE2, reading_lr=SHORT_READING_LR)
    captions = caption(captioner, data.test, out / "captions.json")
    pictures = reconstruct(stage1, data.test, out / "reconstructions")
    summary = summarise(out, captions, pictures, time.monotonic() - started)
    report(out, summary, data.test, captions, pictures)
    tell(out, summary, captions)


def summarise(out: Path, captions: Path, pictures: Path, seconds: float) -> dict[str, Any]:
    """Measure, and write summary.json; a call that finds everything there keeps the first call's time."""
    from vlv.shapes.measure_files import measure

    path = out / "summary.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    told, drawn = measure(captions), measure(pictures / "reconstructions")
    metrics = json.loads((pictures / "metrics.json").read_text())["seeds"][0]
    distance = next((name for name in metrics if name.startswith(("fid", "fd_"))), "fd")
    trained = [seconds_of(out / "stage1"), seconds_of(reading_run(out / "stage2"), out / "stage2")]
    summary = {
        "caption_f1": told["f1"],
        "caption_exact": told["exact"],
        "caption_hallucinations": told["hallucinations"],
        "reconstruction_f1": drawn["f1"],
        distance: metrics.get(distance),
        "stage1_seconds": trained[0],
        "stage2_seconds": trained[1],
        "seconds": None if None in trained else max(seconds, earlier.get("seconds") or 0.0),
        "held_out_pictures": HELD_OUT,
    }
    path.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def report(out: Path, summary: dict[str, Any], images: Path, captions: Path, pictures: Path) -> None:
    """Write report.html."""
    from vlv.shapes.report import Example, Table, read_curve, read_joined_curve, write_report
    from vlv.shapes.writing import named_scene

    texts = json.loads(captions.read_text())
    examples = [
        Example(named_scene(name), images / name, pictures / "reconstructions" / name, text)
        for name, text in texts.items()
    ]
    write_report(
        out / "report.html",
        "VLV on the embedded world: quickstart",
        "Stage 1 saw pictures alone; its only teacher was the frozen text-to-image model. Stage 2 learned to read the "
        "embeddings as captions. None of these pictures was in the training. " + (BEGUN if EARLY.is_dir() else ""),
        [Table("Measures on held-out pictures", ("measure", "value"), _lines(summary), without_stage1())],
        examples,
        [
            read_curve("stage 1, denoising loss", out / "stage1", "train/loss"),
            read_joined_curve("stage 2, caption loss", [reading_run(out / "stage2"), out / "stage2"], "train/loss"),
        ],
    )


def tell(out: Path, summary: dict[str, Any], captions: Path) -> None:
    """Print the table, three captions, and where to look."""
    lines = _lines(summary)
    width = max(len(label) for label, _ in lines)
    print()
    for label, value in lines:
        print(f"  {label:<{width}}  {value:>10}")
    note = without_stage1()
    if note:
        print(f"  {note}")
    print()
    for name, text in list(json.loads(captions.read_text()).items())[:3]:
        print(textwrap.fill(f"{name}: {text}", width=110, initial_indent="  ", subsequent_indent="    "))
    if EARLY.is_dir():
        print(f"\n{BEGUN}")
    print(f"\n{TO_REAL}\n\nLook at {relative(out / 'report.html')}")


def without_stage1() -> str:
    """What the same stage 2 reaches without stage 1, of the kept results; "" where they are not there."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    names = ("without_stage1", "without_stage1_at_once")
    if not all(name in kept for name in names):
        return ""
    waits, trains = (kept[name]["caption_f1"] for name in names)
    return f"without stage 1 it reaches caption F1 {waits:.3f}, or {trains:.3f} if the encoder trains from the start"


def _lines(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The table's lines: what is measured, and its value with its unit."""
    return [(LABELS.get(name, name), _format(name, value)) for name, value in summary.items()]


def _format(name: str, value: Any) -> str:
    if name.endswith("seconds"):
        return "interrupted" if value is None else duration(value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])
