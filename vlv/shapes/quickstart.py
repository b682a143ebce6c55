"""VLV on the small world, in minutes on a CPU: trains the captioner, then captions and reconstructs held-out pictures.

The small world is pictures of one to four plain shapes with exact ground truth. Shipped and not trained here are its
components (a tiny Stable Diffusion, Florence-2 and Qwen2 in the hub's own layouts) and a stage-1 model that has seen
723,200 pictures without any text. Trained here is stage 2: the MLP, the language model and the encoder, on 8,000
pictures with captions.
"""

from __future__ import annotations

import json
import textwrap
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vlv.shapes.runs import (
    KEPT_PHASES,
    ROOT,
    SHORT_PHASES,
    SHORT_STAGE2,
    caption,
    duration,
    make_data,
    pictures_seen,
    reconstruct,
    relative,
    seconds_of,
    train_stage2,
    warmup_folder,
)

PAIRS, CAPTIONED, RECONSTRUCTED = 8_000, 500, 300
EXAMPLES = 60  # pictures on the page, and beyond them those whose caption has a fault
STAGE1 = KEPT_PHASES[SHORT_PHASES]
KEPT = ROOT / "docs" / "embedded_world" / "results.json"  # of scripts/reproduce_tiny.sh; not in an installed wheel
SHIPPED = f"""\
Shipped (assets/tiny): a tiny Stable Diffusion, Florence-2 and Qwen2, pretrained on the small world, and a stage-1
model that has seen {pictures_seen(SHORT_PHASES):,} pictures without any text. To train them takes hours."""
TRAINED = f"""\
Trained here: stage 2, {sum(SHORT_STAGE2.steps or ()):,} steps of 32 on {PAIRS:,} pictures with captions.
Measured: {CAPTIONED} captions and {RECONSTRUCTED} reconstructions of held-out pictures."""
TO_REAL = """\
This is the small world. For real pictures, get the pretrained weights with `vlv download` and train with the default
recipes: `vlv stage1 train_dataset_path=IMAGES`, then `vlv stage2 dataset_path=PAIRS diffusion_model_path=STAGE1`, the
folder that stage 1 has written."""
LABELS = {
    "caption_f1": "caption F1 (size, colour, shape, place)",
    "caption_exact": "captions without any fault",
    "reconstruction_f1": "reconstruction F1",
    "stage2_seconds": "stage 2, training",
    "caption_seconds": "captions",
    "reconstruction_seconds": "reconstructions",
    "seconds": "all of it",
}
Line = tuple[str, str, str, str]
HEAD: Line = ("measure", "value", "95 % interval", "pictures")


@dataclass(frozen=True)
class Summary:
    """What was measured; the fields of summary.json.

    intervals: 95 % confidence interval of each score, [low, high].
    *_seconds: None where a call was interrupted; seconds is the whole of the first call.
    """

    caption_f1: float
    caption_exact: float
    caption_hallucinations: float
    reconstruction_f1: float
    intervals: dict[str, tuple[float, float]]
    held_out_pictures: int
    reconstructed_pictures: int
    pictures_seen_before_quickstart: int
    stage2_seconds: float | None
    caption_seconds: float | None
    reconstruction_seconds: float | None
    seconds: float | None


def run(out: Path) -> Summary:
    """Make data, train, caption, reconstruct, measure, report; what an earlier call made is reused.

    Args:
        out: the folder of data, runs, summary.json and report.html.

    Raises:
        RunError: a training or an inference failed; the same call resumes.
    """
    out, started = out.resolve(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    print(f"{SHIPPED}\n{TRAINED}\n", flush=True)
    data = make_data(out / "data", pairs=PAIRS, test=CAPTIONED, subset=RECONSTRUCTED)
    captioner = train_stage2(out / "stage2", data, STAGE1, SHORT_STAGE2)
    captions = caption(captioner, data.test, out / "captions.json")
    pictures = reconstruct(STAGE1, data.subset, out / "reconstructions")
    summary = summarise(out, captions, pictures, time.monotonic() - started)
    write_page(out, summary, data.subset, captions, pictures)
    show(out, summary, captions)
    return summary


def summarise(out: Path, captions: Path, pictures: Path, seconds: float) -> Summary:
    """Measure, and write summary.json; a call that finds everything there keeps the first call's time."""
    from vlv.shapes import measure_files
    from vlv.shapes.measures import confidence_intervals
    from vlv.shapes.measures import summarise as summarise_scores

    path = out / "summary.json"
    earlier = json.loads(path.read_text())["seconds"] if path.exists() else None
    captioned = measure_files.score(measure_files.read(captions))
    reconstructed = measure_files.score(measure_files.read(pictures / "reconstructions"))
    caption_measures, picture_measures = summarise_scores(captioned), summarise_scores(reconstructed)
    caption_intervals = confidence_intervals(captioned)
    stage2 = out / "stage2"
    parts = seconds_of(warmup_folder(stage2), stage2), seconds_of(captions), seconds_of(pictures)
    summary = Summary(
        caption_f1=caption_measures.f1,
        caption_exact=caption_measures.exact,
        caption_hallucinations=caption_measures.hallucinations,
        reconstruction_f1=picture_measures.f1,
        intervals={
            "caption_f1": caption_intervals["f1"],
            "caption_exact": caption_intervals["exact"],
            "reconstruction_f1": confidence_intervals(reconstructed)["f1"],
        },
        held_out_pictures=len(captioned),
        reconstructed_pictures=len(reconstructed),
        pictures_seen_before_quickstart=pictures_seen(SHORT_PHASES),
        stage2_seconds=parts[0],
        caption_seconds=parts[1],
        reconstruction_seconds=parts[2],
        # A later call finds most of it done and takes seconds: the longest is the first.
        seconds=None if None in parts else max(seconds, earlier or 0.0),
    )
    path.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def table(summary: Summary) -> list[Line]:
    """The lines of the table: label, value, 95 % interval, pictures."""
    count = {"caption_f1": summary.held_out_pictures, "caption_exact": summary.held_out_pictures}
    count |= {"reconstruction_f1": summary.reconstructed_pictures}
    values, lines = asdict(summary), list[Line]()
    for name, label in LABELS.items():
        if name in summary.intervals:
            low, high = summary.intervals[name]
            lines.append((label, f"{values[name]:.3f}", f"{low:.3f} to {high:.3f}", str(count[name])))
        else:
            seconds = values[name]
            lines.append((label, "interrupted" if seconds is None else duration(seconds), "", ""))
    return lines


def write_page(out: Path, summary: Summary, images: Path, captions: Path, pictures: Path) -> None:
    """Write report.html: the table, the first reconstructed pictures, and any further one with a wrong caption."""
    from vlv.shapes.report import Example, Report, Table, has_errors, read_joined_curve, write_report
    from vlv.shapes.writing import named_scene

    texts, reconstructions = json.loads(captions.read_text()), pictures / "reconstructions"
    examples = [
        Example(named_scene(path.name), images / path.name, path, texts[path.name])
        for path in sorted(reconstructions.glob("*.png"))
    ]
    shown = examples[:EXAMPLES] + [one for one in examples[EXAMPLES:] if has_errors(one.caption, one.scene)]
    report = Report(
        title="VLV on the small world: quickstart",
        introduction=f"{SHIPPED} {TRAINED}",
        tables=[Table("Measures on held-out pictures", HEAD, table(summary), without_stage1())],
        examples=shown,
        examples_note=f"The first {min(EXAMPLES, len(examples))} of {len(examples)} reconstructed pictures, and any "
        "other whose caption is wrong in any part. Wrong sentences are marked.",
        curves=[
            read_joined_curve("stage 2, caption loss", [warmup_folder(out / "stage2"), out / "stage2"], "train/loss")
        ],
    )
    write_report(out / "report.html", report)


def show(out: Path, summary: Summary, captions: Path) -> None:
    """Print the table, three captions, and where to look."""
    lines = [HEAD, *table(summary)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print()
    for label, *values in lines:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths[1:], strict=True))
        print(f"  {label:<{widths[0]}}  {'  '.join(cells)}".rstrip())
    if note := without_stage1():
        print(textwrap.fill(note, width=110, initial_indent="  ", subsequent_indent="  "))
    print()
    for name, text in list(json.loads(captions.read_text()).items())[:3]:
        print(textwrap.fill(f"{name}: {text}", width=110, initial_indent="  ", subsequent_indent="    "))
    print(f"\n{TO_REAL}\n\nLook at {relative(out / 'report.html')}")


def without_stage1() -> str:
    """What the same stage 2 reaches without stage 1, of the kept results; "" where they are not there."""
    if not KEPT.exists():
        return ""
    kept = json.loads(KEPT.read_text())
    waits, trains = (kept[name]["caption_f1"] for name in ("without_stage1", "without_stage1_at_once"))
    return (
        f"The same stage 2 without stage 1 reaches caption F1 {waits:.3f}, or {trains:.3f} where the encoder trains "
        "from the first step (1,000 held-out pictures, docs/embedded_world.md)."
    )
