"""Keep what `bash scripts/reproduce_tiny.sh` made: checkpoints in assets/tiny/trained, results and logs in docs.

Checkpoints are kept in fp16 and name their bases relative to themselves, so that they work in every clone; what a
captioner shares with its bases is kept there alone.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.small_world.results import markdown
from scripts.small_world.rows import ROWS, ROWS_KEPT
from scripts.small_world.rows_chart import write_rows_chart
from vlv.atomic import whole_file
from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import option
from vlv.shapes.runs import ROOT, TRAINED, relative

DOCS = ROOT / "docs" / "embedded_world"
PAGE = ROOT / "docs" / "embedded_world.md"
MARKS = ("<!-- table.md -->", "<!-- end of table.md -->")
SHOWN = (0, 1, 2, 3, 4, 5)  # the first held-out scenes, whatever came out
LEFT = ("README.md", "config.yaml", "trainer_state.json")  # cards and states that name the run's own paths
BASES = {"decoder": "../../stable-diffusion", "florence2": "../../florence2", "language_model": "../../qwen"}


@dataclass(frozen=True)
class KeepConfig:
    """What is kept."""

    out: str = option("./outputs/reproduce_tiny", "folder of scripts/reproduce_tiny.sh", path="local")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and keep."""
    call = Call("python -m scripts.small_world.keep", __doc__ or "")
    config = parse(KeepConfig, call, sys.argv[1:] if arguments is None else arguments)
    try:
        keep(Path(config.out).resolve())
    except OSError as error:
        stop(str(error), BAD_CALL)


def keep(out: Path) -> None:
    """Copy results and logs, and the full recipe's models and picture where they are there."""
    DOCS.mkdir(parents=True, exist_ok=True)
    results = json.loads((out / "results.json").read_text())
    keep_results(results, DOCS, PAGE)
    if "rows_kept" in results:
        write_rows_chart(DOCS / "rows_kept.svg", results["rows_kept"], ROWS_KEPT)
    for log in sorted([*out.glob("*/stage*/metrics.jsonl"), *out.glob("*/pretrain/*/metrics.jsonl")]):
        shutil.copy(log, DOCS / f"{'_'.join(log.relative_to(out).parts[:-1])}.metrics.jsonl")
    stage1, captioner = (out / "full" / run / "final" for run in ("stage1", "stage2"))
    if stage1.is_dir() and captioner.is_dir():
        keep_checkpoints(stage1, captioner, TRAINED)
    if (panel := out / "measured" / "composition" / "composition.png").is_file():
        shutil.copy(panel, DOCS / "composition.png")
    measured = out / "measured" / "full"
    if (measured / "captions.json").is_file():
        keep_picture(out, measured, DOCS / "pictures.png")


def keep_results(results: dict[str, Any], docs: Path, page: Path) -> None:
    """Write results and tables; rows of an earlier run that these results lack stay as they are."""
    kept = json.loads((docs / "results.json").read_text()) if (docs / "results.json").exists() else {}
    together = {**kept, **results}
    ordered = {name: together[name] for name in ROWS if name in together}
    (docs / "results.json").write_text(json.dumps(ordered, indent=2) + "\n")
    (docs / "table.md").write_text(markdown(ordered, {name: title for name, (title, _) in ROWS.items()}))
    write_table(page, (docs / "table.md").read_text())


def write_table(page: Path, table: str) -> None:
    """Put the tables between the page's two marks."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{table}{MARKS[1]}{after}")


def keep_checkpoints(stage1: Path, captioner: Path, trained: Path) -> None:
    """Write both trained models to `trained`, in fp16, with relative bases."""
    from vlv.checkpoints.identity import WEIGHTS_NAME, file_hash

    keep_checkpoint(stage1, trained / "stage1")
    origin = {"source": "../stage1", "weights_sha256": file_hash(trained / "stage1" / WEIGHTS_NAME)}
    keep_checkpoint(captioner, trained / "captioner", origin)


def keep_checkpoint(source: Path, target: Path, stage1: dict[str, str] | None = None) -> None:
    """Write one model.

    Args:
        stage1: of a captioner, the stage-1 model that it came from.
    """
    from vlv.checkpoints.identity import CONFIG_NAME, WEIGHTS_NAME, read_json

    shutil.rmtree(target, ignore_errors=True)
    if stage1 is None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT))
    else:
        from vlv.models.captioner import VLVCaptioner

        VLVCaptioner.from_pretrained(source).save_pretrained(target, adapter=True)
        for name in LEFT:
            (target / name).unlink(missing_ok=True)
    halve_weights(target / WEIGHTS_NAME)
    config = read_json(target / CONFIG_NAME)
    identities: dict[str, Any] = config["bases"] if stage1 is None else config["origin"]
    for base, place in BASES.items():
        if base in identities:
            identities[base]["source"] = place
    if stage1 is not None:
        identities["stage1"] = stage1
    (target / CONFIG_NAME).write_text(json.dumps(_without_places(config), indent=2) + "\n")
    print(f"kept: {relative(target)}", file=sys.stderr)


def _without_places(config: Any) -> Any:
    """A config without what transformers notes of where it was read from."""
    if isinstance(config, dict):
        return {name: _without_places(value) for name, value in config.items() if name != "_name_or_path"}
    return [_without_places(value) for value in config] if isinstance(config, list) else config


def halve_weights(path: Path) -> None:
    """Write a safetensors file anew with its floating-point tensors in fp16."""
    from safetensors.torch import load_file, save_file

    weights = {name: value.half() if value.is_floating_point() else value for name, value in load_file(path).items()}
    with whole_file(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def keep_picture(out: Path, measured: Path, path: Path) -> None:
    """Write the picture of the README."""
    from scripts.small_world.panels import caption_panel
    from vlv.shapes.report import Example
    from vlv.shapes.writing import named_scene

    texts = list(json.loads((measured / "captions.json").read_text()).items())
    originals, reconstructions = out / "data" / "test", measured / "pictures" / "reconstructions"
    chosen = [texts[number] for number in SHOWN]
    examples = [Example(named_scene(name), originals / name, reconstructions / name, text) for name, text in chosen]
    caption_panel(examples).save(path, optimize=True)
    print(f"kept: {relative(path)}", file=sys.stderr)


if __name__ == "__main__":
    main()
