"""How fast `vlv caption` is with engine=vllm beside its own engine, and whether both say the same, as a Markdown table.

python -m scripts.measure_vllm
python -m scripts.measure_vllm captioners=[outputs/Stage2_Training/final] images=200 json=vllm.json

In the environment of scripts/install_vllm.sh. Greedy captions of the small world's scenes, from files in a folder to
token ids; start-up is not counted, and each engine captions a batch before the clock starts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import option, require
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

if TYPE_CHECKING:
    from vlv.inference.captions import CaptionSearch
    from vlv.inference.images import ImageBatch
    from vlv.models.captioner import VLVCaptioner
    from vlv.vllm.engine import VllmCaptioner

Ids = dict[str, list[int]]  # token ids by image, up to the end token


@dataclass(frozen=True)
class VllmMeasureConfig:
    """What is captioned, by what."""

    captioners: list[str] = option(["assets/tiny/trained/captioner"], "captioners' folders", path="local")
    images: int = option(500, "scenes that are captioned")
    batch_sizes: list[int] = option([8, 32], "images that are encoded at once, and captioned at once without vLLM")
    max_new_tokens: int | None = option(None, "longest caption in tokens; null is what the captioner was trained with")
    vllm_cache_gib: float = option(1.0, "as of vlv caption")
    json: str | None = option(None, "file for every measurement; rows of other captioners in it stay", path="local")

    def __post_init__(self) -> None:
        require(self.images >= 1, "images", self.images, "give at least 1")
        require(all(size >= 1 for size in self.batch_sizes), "batch_sizes", self.batch_sizes, "give at least 1 each")


def main(arguments: list[str] | None = None) -> None:
    """Measure each captioner with both engines and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(VllmMeasureConfig, Call("python -m scripts.measure_vllm", __doc__ or ""), given)
    load_libraries()
    from vlv.benchmarks.machine import describe_machine

    before = json.loads(Path(config.json).read_text())["rows"] if config.json and Path(config.json).exists() else []
    rows = [row for row in before if row["captioner"] not in map(_name, config.captioners)]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(config.images):
            render(make_scene("test", number), number).save(Path(folder) / f"{number:05}.png")
        try:
            for captioner in config.captioners:
                rows += _measure(config, captioner, folder)
        except (ValueError, OSError) as error:
            stop(str(error), BAD_CALL)
    machine = describe_machine([])
    print(f"{machine.title}\n\n{table(rows)}")
    if config.json is not None:
        content = {"machine": asdict(machine), "vllm": version_of_vllm(), "rows": rows}
        Path(config.json).write_text(json.dumps(content, indent=2) + "\n")


def table(rows: list[dict[str, float]]) -> str:
    """What was measured, as Markdown."""
    lines = ["| captioner | engine | `batch_size` | images/s | tokens/s | same ids |", "| --- " * 6 + "|"]
    for row in rows:
        rates = [f"{row[what] / row['seconds']:.{digits}f}" for what, digits in (("images", 1), ("tokens", 0))]
        same = f"{row['same']:,} of {row['images']:,}" if "same" in row else ""
        cells = [row["captioner"], f"`{row['engine']}`", row["batch_size"], *rates, same]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def version_of_vllm() -> str:
    """The version of vLLM, which has another package's name on the CPU."""
    import vllm  # pyright: ignore[reportMissingImports]  (in an environment of its own)

    return f"vllm {vllm.__version__}, transformers {version('transformers')}"


def _measure(config: VllmMeasureConfig, folder: str, images: str) -> Iterator[dict[str, object]]:
    """A row of each engine and batch size."""
    from vlv.inference.captions import CaptionSearch
    from vlv.models.captioner import VLVCaptioner
    from vlv.models.image_rows import ImageRows
    from vlv.vllm.engine import VllmCaptioner

    search = CaptionSearch(num_beams=1, max_new_tokens=config.max_new_tokens)
    captioner = VLVCaptioner.from_pretrained(folder)
    expected: Ids = {}
    for size in config.batch_sizes:
        row, expected = _time(partial(_plain_ids, captioner, search), captioner.image_processor, images, size)
        yield {"captioner": _name(folder), "engine": "plain", **row}
    del captioner
    rows = ImageRows.from_pretrained(folder)
    vllm = VllmCaptioner(folder, rows, config.max_new_tokens, config.vllm_cache_gib)
    for size in config.batch_sizes:
        row, found = _time(partial(_vllm_ids, vllm, search), vllm.image_processor, images, size)
        same = sum(found[name] == ids for name, ids in expected.items())
        yield {"captioner": _name(folder), "engine": "vllm", **row, "same": same}


def _time(
    caption: Callable[[Iterator[ImageBatch]], Ids], image_processor: object, images: str, batch_size: int
) -> tuple[dict[str, float], Ids]:
    """What captioning takes, and the ids."""
    from vlv.inference.captions import local_images
    from vlv.inference.images import ReadSettings, load_images

    source, reading = local_images(images).source, ReadSettings(batch_size)
    load = partial(load_images, source, image_processor=image_processor, reading=reading)  # type: ignore[arg-type]
    caption(load(range(min(batch_size, len(source)))))
    started = time.perf_counter()
    found = caption(load(range(len(source))))
    seconds = time.perf_counter() - started
    tokens = sum(map(len, found.values()))
    return {"batch_size": batch_size, "images": len(found), "seconds": seconds, "tokens": tokens}, found


def _plain_ids(captioner: VLVCaptioner, search: CaptionSearch, batches: Iterator[ImageBatch]) -> Ids:
    found: Ids = {}
    for batch in batches:
        rows = captioner.generate_ids(batch.encoder_pixels, search.num_beams, search.max_new_tokens).tolist()
        for name, row in zip(batch.names, rows, strict=True):
            end = captioner.eos_token_id
            found[name] = row[: row.index(end) + 1] if end in row else row
    return found


def _vllm_ids(captioner: VllmCaptioner, search: CaptionSearch, batches: Iterator[ImageBatch]) -> Ids:
    return {image.name: image.ids[0] for images in captioner.captioned(batches, search) for image in images}


def _name(folder: str) -> str:
    return Path(folder).name


if __name__ == "__main__":
    main()
