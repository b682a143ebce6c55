"""VLV on the small world, in minutes on a CPU: trains both stages from nothing, and measures what each of them taught.

The small world is pictures of one to four plain shapes with exact ground truth. Shipped and not trained here are its
components alone: a tiny Stable Diffusion, Florence-2 and Qwen2 in the hub's own layouts. Trained here are stage 1, on
12,000 pictures without any text, and stage 2, on 8,000 pictures with captions. The same 300 held-out pictures are
captioned and reconstructed before and after each.
"""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vlv.shapes.runs import (
    Settings,
    caption,
    duration,
    make_data,
    new_captioner,
    new_stage1,
    reconstruct,
    relative,
    seconds_of,
    train_stage1,
    train_stage2,
)

PICTURES, PAIRS, HELD_OUT = 12_000, 8_000, 300
EXAMPLES = 60  # pictures on the page, and beyond them those whose caption has a fault
STAGE1_STEPS, STAGE2_STEPS = 500, 1_000
STAGE1: Settings = {"num_steps": STAGE1_STEPS}
STAGE2: Settings = {"total_steps": STAGE2_STEPS}
SAMPLING: Settings = {"num_inference_steps": 25, "extractor": "vision_tower"}
SHIPPED = """\
Shipped (assets/tiny): a tiny Stable Diffusion, Florence-2 and Qwen2, pretrained on the small world. Florence-2's tower
was taught to see every attribute of every shape, and its BART to answer three kinds of question, none of which is to
describe a picture. Nothing of stage 1 or stage 2 is shipped: both start from nothing."""
TRAINED = f"""\
Trained here: stage 1, {STAGE1_STEPS} steps of 64 on {PICTURES:,} pictures without any text, and stage 2,
{STAGE2_STEPS:,} steps of 32 on {PAIRS:,} pictures with captions. Measured: {HELD_OUT} held-out pictures."""
TO_REAL = """\
This is the small world. For real pictures, get the pretrained weights with `vlv download` and train with the default
recipes: `vlv stage1 train_dataset_path=IMAGES`, then `vlv stage2 dataset_path=PAIRS diffusion_model_path=STAGE1`, the
folder that stage 1 has written."""
SCORES = {
    "reconstruction_f1_before_stage1": "reconstruction F1, before stage 1",
    "reconstruction_f1_after_stage1": "reconstruction F1, after stage 1",
    "reconstruction_clean": "reconstructions without anything else in them",
    "caption_f1_before_stage2": "caption F1 (size, texture, colour, shape, place), before stage 2",
    "caption_f1": "caption F1, after stage 2",
    "caption_exact": "captions without any fault",
}
TIMES = {
    "stage1_seconds": "stage 1, training",
    "stage2_seconds": "stage 2, training",
    "measuring_seconds": "captions and reconstructions",
    "seconds": "all of it",
}
Line = tuple[str, str, str]
HEAD: Line = ("measure", "value", "95 % interval")


@dataclass(frozen=True)
class Summary:
    """What was measured; the fields of summary.json.

    reconstruction_f1, caption_f1, caption_exact: at the end, by the captioner's own encoder; stage 2 leaves it as it
        is, so reconstruction_f1 is that after stage 1.
    intervals: 95 % confidence interval of each score, [low, high].
    *_seconds: None where a call was interrupted; seconds is the whole of the first call.
    """

    caption_f1: float
    caption_exact: float
    reconstruction_f1: float
    reconstruction_clean: float
    reconstruction_f1_before_stage1: float
    reconstruction_f1_after_stage1: float
    caption_f1_before_stage2: float
    intervals: dict[str, tuple[float, float]]
    held_out_pictures: int
    pictures_seen_before_quickstart: int
    stage1_seconds: float | None
    stage2_seconds: float | None
    measuring_seconds: float | None
    seconds: float | None


@dataclass(frozen=True)
class _Score:
    """A measure and its 95 % confidence interval."""

    value: float
    interval: tuple[float, float]


def run(out: Path) -> Summary:
    """Make data, train both stages, measure before and after each, report; what an earlier call made is reused.

    Args:
        out: the folder of data, runs, summary.json and report.html.

    Raises:
        RunError: a training or an inference failed; the same call resumes.
    """
    out, started = out.resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    print(f"{SHIPPED}\n{TRAINED}\n", flush=True)
    data = make_data(out / "data", pictures=PICTURES, pairs=PAIRS, test=HELD_OUT)
    scores: dict[str, _Score] = {}

    def pictures(name: str, model: Path, *measures: tuple[str, str]) -> Path:
        folder = reconstruct(model, data.test, out / "pictures" / name, SAMPLING)
        scores.update(_measured(folder / "reconstructions", *measures))
        return folder / "reconstructions"

    pictures("before_stage1", new_stage1(out / "new_stage1"), ("reconstruction_f1_before_stage1", "f1"))
    stage1 = train_stage1(out / "stage1", data, STAGE1)
    after = ("reconstruction_f1_after_stage1", "f1"), ("reconstruction_clean", "clean")
    reconstructions = pictures("after_stage1", stage1, *after)
    before = caption(new_captioner(out / "new_captioner", stage1), data.test, out / "captions_before_stage2.json")
    scores.update(_measured(before, ("caption_f1_before_stage2", "f1")))
    captioner = train_stage2(out / "stage2", data, stage1, STAGE2)
    captions = caption(captioner, data.test, out / "captions.json")
    scores.update(_measured(captions, ("caption_f1", "f1"), ("caption_exact", "exact")))
    summary = _summarise(out, scores, len(list(data.test.glob("*.png"))), time.monotonic() - started)
    _write_page(out, summary, data.test, captions, reconstructions)
    _show(out, summary, captions)
    return summary


def _measured(result: Path, *measures: tuple[str, str]) -> dict[str, _Score]:
    """Scores of a caption file or a folder of pictures, each printed; measures: name here, name in `SceneMeasures`."""
    from vlv.shapes import measure_files
    from vlv.shapes.measures import confidence_intervals, summarise

    scored = measure_files.score(measure_files.read(result))
    values, intervals = summarise(scored).to_dict(), confidence_intervals(scored)
    found = {name: _Score(values[measure], intervals[measure]) for name, measure in measures}
    for name, score in found.items():
        print(f"== {SCORES[name]}: {score.value:.3f}", flush=True)
    return found


def _summarise(out: Path, scores: dict[str, _Score], count: int, seconds: float) -> Summary:
    """Write summary.json; a call that finds everything there keeps the first call's time."""
    path = out / "summary.json"
    earlier = json.loads(path.read_text())["seconds"] if path.exists() else None
    measured = [*(out / "pictures").glob("[!.]*"), out / "captions_before_stage2.json", out / "captions.json"]
    parts = seconds_of(out / "stage1"), seconds_of(out / "stage2"), seconds_of(*measured)
    summary = Summary(
        **{name: score.value for name, score in scores.items()},
        reconstruction_f1=scores["reconstruction_f1_after_stage1"].value,
        intervals={name: score.interval for name, score in scores.items()},
        held_out_pictures=count,
        pictures_seen_before_quickstart=0,
        stage1_seconds=parts[0],
        stage2_seconds=parts[1],
        measuring_seconds=parts[2],
        # A later call finds most of it done and takes seconds: the longest is the first.
        seconds=None if None in parts else max(seconds, earlier or 0.0),
    )
    path.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def _table(summary: Summary) -> list[Line]:
    """The lines of the table: label, value, 95 % interval."""
    values, lines = asdict(summary), list[Line]()
    for name, label in SCORES.items():
        low, high = summary.intervals[name]
        lines.append((label, f"{values[name]:.3f}", f"{low:.3f} to {high:.3f}"))
    for name, label in TIMES.items():
        lines.append((label, "interrupted" if values[name] is None else duration(values[name]), ""))
    return lines


def _write_page(out: Path, summary: Summary, images: Path, captions: Path, reconstructions: Path) -> None:
    """Write report.html: the table, the first held-out pictures, and any further one with a wrong caption."""
    from vlv.shapes.report import Example, Report, Table, has_errors, read_curve, write_report
    from vlv.shapes.writing import named_scene

    examples = [
        Example(named_scene(name), images / name, reconstructions / name, text)
        for name, text in json.loads(captions.read_text()).items()
    ]
    shown = examples[:EXAMPLES] + [one for one in examples[EXAMPLES:] if has_errors(one.caption, one.scene)]
    report = Report(
        title="VLV on the small world: quickstart",
        introduction=f"{SHIPPED} {TRAINED}",
        tables=[Table(f"Measures on {HELD_OUT} held-out pictures", HEAD, _table(summary))],
        examples=shown,
        examples_note=f"The first {min(EXAMPLES, len(examples))} of {len(examples)} pictures, and any other whose "
        "caption is wrong in any part. Wrong sentences are marked.",
        curves=[
            read_curve("stage 1, denoising loss", out / "stage1", "train/loss"),
            read_curve("stage 2, caption loss", out / "stage2", "train/loss"),
        ],
    )
    write_report(out / "report.html", report)


def _show(out: Path, summary: Summary, captions: Path) -> None:
    """Print the table, three captions, and where to look."""
    lines = [HEAD, *_table(summary)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for label, *values in lines:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        print(f"  {label:<{widths[0]}}  {'  '.join(cells)}".rstrip())
    print()
    for name, text in list(json.loads(captions.read_text()).items())[:3]:
        print(textwrap.fill(f"{name}: {text}", width=110, initial_indent="  ", subsequent_indent="    "))
    print(f"\n{TO_REAL}\n\nLook at {relative(out / 'report.html')}")
