"""What quantisation costs: the same language model in several number formats, as a Markdown table.

python -m scripts.measure_formats
python -m scripts.measure_formats pretrained_checkpoints/SmolLM2-135M count=32 json=smollm2.json

SOURCE is a captioner of the small world: its captions of COUNT test scenes are measured. Or it is a language model's
folder: it goes on from the first tokens of COUNT true descriptions, beside what it says in fp32. Each format is a
process of its own, which is given the same rows of embeddings.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import option, require

if TYPE_CHECKING:
    from torch import Tensor

Generate = Callable[["Tensor"], list[list[int]]]  # token ids after each of rows [B, Q, H]

AT_ONCE = 8  # as `vlv caption` takes images
SOME = 16  # sequences that are also generated one at a time
PROMPT, NEW = 12, 64  # tokens of a language model that is no captioner: given, and generated


@dataclass(frozen=True)
class Format:
    """A row of the table: its name, and what runs the language model in which number format."""

    name: str
    engine: Literal["transformers", "llama.cpp"]


FORMATS = (
    Format("fp32", "transformers"),
    Format("int8", "transformers"),
    Format("int4", "transformers"),
    Format("f16", "llama.cpp"),
    Format("q8_0", "llama.cpp"),
    Format("q4_k_m", "llama.cpp"),
)


@dataclass(frozen=True)
class FormatsConfig:
    """What is measured, on how much, and where it is kept."""

    source: str = option("assets/tiny/trained/captioner", "a captioner's or a language model's folder", path="local")
    count: int = option(1_000, "scenes")
    work: str = option("outputs/formats", "folder of the exported models", path="local")
    json: str | None = option(None, "file for every measurement", path="local")
    row: str = option("", "measure this format alone, of what is in the folder already, and print it as JSON")

    def __post_init__(self) -> None:
        names = [item.name for item in FORMATS]
        require(self.row in ("", *names), "row", self.row, f"give one of {', '.join(names)}")
        require(self.count >= AT_ONCE, "count", self.count, f"give at least {AT_ONCE}")


def main(arguments: list[str] | None = None) -> None:
    """Measure each format and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(FormatsConfig, Call("python -m scripts.measure_formats", __doc__ or "", ("source",)), given)
    load_libraries()
    if config.row:
        print(json.dumps(_measure(Path(config.work), next(item for item in FORMATS if item.name == config.row))))
        return
    from vlv.benchmarks.machine import describe_machine

    try:
        facts = prepare(Path(config.source), config.count, Path(config.work))
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    rows = [_row(config, item) for item in FORMATS]
    reference = rows[0]["ids"]
    for row in rows:
        row |= _quality(row.pop("ids"), reference, Path(config.work), facts["captions"])
    machine = describe_machine([])
    measured = [item for item in given if not item.startswith(("work=", "json="))]
    command = " ".join(["python -m scripts.measure_formats", *measured])
    content = {"machine": asdict(machine), "command": command, **facts, "rows": rows}
    print(f"{machine.title}\n\n{table(content)}")
    if config.json is not None:
        Path(config.json).write_text(json.dumps(content, indent=2) + "\n")


def table(facts: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    quality = {"caption_f1": "caption F1", "caption_exact": "without a fault"} if facts["captions"] else {}
    quality |= {"same": "same as fp32"}
    heads = ["format", "file, MB", *quality.values(), "tokens/s, 1 at once", f"{AT_ONCE} at once", "memory, MiB"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for row in facts["rows"]:
        name = row["name"] if row["engine"] == "transformers" else f"GGUF {row['name']}"
        cells = [name, f"{row['file_mb']:.1f}", *(f"{row[key]:.3f}" for key in quality)]
        cells += [f"{row[key]:,.0f}" for key in ("tokens_per_second_of_one", "tokens_per_second", "memory_mib")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def prepare(source: Path, count: int, work: Path) -> dict[str, Any]:
    """Write the rows that every format goes on from, and the language model in each of them.

    Returns:
        What is known of the source: whether it captions, its limit and its end.
    """
    from safetensors.torch import save_file

    from vlv.checkpoints.schema import kind_of
    from vlv.llamacpp.export import quantize_gguf
    from vlv.llamacpp.writer import write_gguf

    captions = kind_of(source) == "stage2"
    model, tokenizer, rows, facts = (_of_captioner if captions else _of_language_model)(source, count)
    work.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(work / "fp32")
    tokenizer.save_pretrained(work / "fp32")
    for item in FORMATS:
        if item.engine == "llama.cpp":
            write_gguf(model, tokenizer, work / f"{item.name}.gguf", facts["end"])
            if item.name != "f16":
                quantize_gguf(work / f"{item.name}.gguf", item.name)
    save_file({"rows": rows.contiguous()}, work / "rows.safetensors")
    facts = {"source": source.name, "count": count, "captions": captions, **facts}
    (work / "facts.json").write_text(json.dumps(facts))
    return facts


def _of_captioner(source: Path, count: int) -> tuple[Any, Any, Tensor, dict[str, int]]:
    import torch

    from vlv import VLVCaptioner
    from vlv.shapes.render import render
    from vlv.shapes.scene import make_scene

    captioner = VLVCaptioner.from_pretrained(source)
    pictures = [render(make_scene("test", number), number) for number in range(count)]
    rows = []
    with torch.no_grad():
        for batch in captioner.image_processor.batches(pictures, AT_ONCE):
            rows.append(captioner.prefix(captioner.embed(batch["encoder_pixels"])))
    limit = captioner.generation_config.max_new_tokens
    return captioner.llm, captioner.tokenizer, torch.cat(rows), {"limit": limit, "end": captioner.eos_token_id}


def _of_language_model(source: Path, count: int) -> tuple[Any, Any, Tensor, dict[str, int]]:
    import torch

    from vlv.checkpoints.pretrained import load_language_model, load_tokenizer
    from vlv.shapes.describe import describe
    from vlv.shapes.scene import make_scene

    model, tokenizer = load_language_model(source, torch.float32), load_tokenizer(source, "source")
    texts = [describe(make_scene("test", number), number) for number in range(count)]
    ids = torch.tensor([tokenizer(text)["input_ids"][:PROMPT] for text in texts])
    with torch.no_grad():
        rows = model.get_input_embeddings()(ids)
    end: Any = tokenizer.eos_token_id
    return model, tokenizer, rows, {"limit": NEW, "end": end}


def _row(config: FormatsConfig, item: Format) -> dict[str, Any]:
    call = [sys.executable, "-m", "scripts.measure_formats", f"work={config.work}", f"row={item.name}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        stop(f"{item.name}: {(done.stderr.strip() or 'no message').splitlines()[-1]}", 1)
    return json.loads(done.stdout.splitlines()[-1])


def _measure(work: Path, item: Format) -> dict[str, Any]:
    """Speed, memory and token ids of one format, in this process."""
    import psutil
    from safetensors.torch import load_file

    facts = json.loads((work / "facts.json").read_text())
    rows = load_file(work / "rows.safetensors")["rows"].clone()
    # Of the libraries and the rows, which every format has alike.
    before = psutil.Process().memory_info().rss
    generate, file = (_transformers if item.engine == "transformers" else _llama_cpp)(work, item, facts)
    generate(rows[:AT_ONCE])  # the first batch pages the file in, and makes what is kept for the next
    seconds, ids = _timed(generate, rows, AT_ONCE)
    peak = _peak_memory()
    of_one, few = _timed(generate, rows[:SOME], 1)
    return {
        **asdict(item),
        "file_mb": file.stat().st_size / 1e6,
        "tokens_per_second": sum(map(len, ids)) / seconds,
        "tokens_per_second_of_one": sum(map(len, few)) / of_one,
        "memory_mib": (peak - before) / 2**20,
        "ids": ids,
    }


def _timed(generate: Generate, rows: Tensor, at_once: int) -> tuple[float, list[list[int]]]:
    started = time.perf_counter()
    found = [generate(rows[start : start + at_once]) for start in range(0, len(rows), at_once)]
    return time.perf_counter() - started, [ids for some in found for ids in some]


def _transformers(work: Path, item: Format, facts: dict[str, Any]) -> tuple[Generate, Path]:
    import torch

    from vlv.checkpoints.pretrained import load_language_model
    from vlv.models.loading import quantization

    how: dict[str, Any] = {}
    if item.name != "fp32":  # made from the same file while it is read
        how = {"device_map": "cpu", "quantization_config": quantization(item.name, "cpu", torch.float32, None)}
    model: Any = load_language_model(work / "fp32", torch.float32, **how)
    end = facts["end"]
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": facts["limit"], "eos_token_id": end}

    def generate(rows: Tensor) -> list[list[int]]:
        mask = torch.ones(rows.shape[:2], dtype=torch.long)
        found = model.generate(inputs_embeds=rows, attention_mask=mask, pad_token_id=end, **options).tolist()
        return [ids[: ids.index(end) + 1] if end in ids else ids for ids in found]

    return generate, work / "fp32" / "model.safetensors"


def _llama_cpp(work: Path, item: Format, facts: dict[str, Any]) -> tuple[Generate, Path]:
    from vlv.llamacpp.language_model import LlamaCppModel

    file = work / f"{item.name}.gguf"
    model = LlamaCppModel(file)
    return lambda rows: model.generate(rows, facts["limit"], facts["end"], lambda scores: scores.argmax(1)), file


def _peak_memory() -> int:
    """Bytes of this process's memory at its most; `ru_maxrss` would begin with its parent's."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) * 1024


def _quality(ids: list[list[int]], reference: list[list[int]], work: Path, captions: bool) -> dict[str, float]:
    """Which share of the sequences is that of fp32, and what the captions are worth."""
    from vlv.checkpoints.pretrained import load_tokenizer
    from vlv.shapes.measures import score_descriptions, summarise
    from vlv.shapes.scene import make_scene
    from vlv.shapes.text_oracle import read_description

    found = {"same": sum(one == other for one, other in zip(ids, reference, strict=True)) / len(ids)}
    if captions:
        texts = load_tokenizer(work / "fp32", "work").batch_decode(ids, skip_special_tokens=True)
        scenes = [make_scene("test", number) for number in range(len(ids))]
        measured = summarise(score_descriptions([read_description(text.strip()) for text in texts], scenes))
        found |= {"caption_f1": measured.f1, "caption_exact": measured.exact}
    return found


if __name__ == "__main__":
    main()
