"""Whether a folder holds a whole model or dataset: what is missing, and what is damaged."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from vlv.checkpoints.schema import LORA_FOLDER, weight_files

SHOWN = 3
_PART = re.compile(r"^(.*)-(\d+)-of-(\d+)(\.\w+)$")


@dataclass
class State:
    """Files of a folder, relative to it, that are not as they should be; `damaged` maps them to the reason."""

    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing is missing and nothing is damaged."""
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        broken = [f"{name} ({reason})" for name, reason in self.damaged.items()]
        parts = [
            f"{what}: {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")
            for what, names in (("missing", self.missing), ("damaged", broken))
            if names
        ]
        return "; ".join(parts) or "ok"


def check_model(folder: Path, needed: tuple[str, ...], weights: tuple[str, ...]) -> State:
    """Check a model's folder.

    Args:
        folder: the model's folder.
        needed: files relative to it; a|b is one of the two. Those in JSON are parsed.
        weights: .safetensors files, each as itself or as <name>.index.json with all the files it names. The
            length of each must be what its header says.
    """
    state = State()
    if not folder.is_dir():
        state.missing.append("the whole folder")
        return state
    for names in needed:
        found = [name for name in names.split("|") if (folder / name).is_file()]
        if not found:
            state.missing.append(names.replace("|", " or "))
        elif found[0].endswith(".json"):
            _read_json(folder, found[0], state)
    for name in weights:
        for part in _parts(folder, name, state):
            if not (folder / part).is_file():
                state.missing.append(part)
            elif reason := _weights_problem(folder / part):
                state.damaged[part] = reason
    return state


def check_weights(folder: Path) -> State:
    """Check that the weights of a checkpoint of ours are as long as their headers say, LoRA's too.

    Raises:
        CheckpointError: as of `weight_files`.
    """
    state = State()
    for path in (*weight_files(folder), *(folder / LORA_FOLDER).glob("*.safetensors")):
        if reason := _weights_problem(path):
            state.damaged[str(path.relative_to(folder))] = reason
    return state


def check_parquet(folder: Path) -> State:
    """Check a folder of parquet files: each has a footer, and of x-00000-of-00012 all 12 are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    state = State()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet") if path.is_file())
    # The hub's client keeps parts of downloads in .cache.
    names = [name for name in names if not name.startswith(".")]
    if not names:
        state.missing.append("the whole folder" if not folder.is_dir() else "*.parquet")
    series: dict[tuple[str, str, str], int] = {}
    for name in names:
        try:
            pq.read_metadata(folder / name)
        except (OSError, pa.ArrowException):
            state.damaged[name] = "no parquet footer: cut short?"
        if match := _PART.match(name):
            stem, number, total, ending = match.groups()
            series[stem, total, ending] = len(number)
    for (stem, total, ending), digits in series.items():
        wanted = (f"{stem}-{number:0{digits}d}-of-{total}{ending}" for number in range(int(total)))
        state.missing.extend(sorted(set(wanted).difference(names)))
    return state


def _parts(folder: Path, name: str, state: State) -> list[str]:
    """The files that hold the weights `name`: itself, or those of its index."""
    index = f"{name}.index.json"
    if (folder / name).is_file() or not (folder / index).is_file():
        return [name]
    content = _read_json(folder, index, state)
    if content is None:
        return []
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or not all(isinstance(part, str) for part in named.values()):
        state.damaged[index] = "names no files"
        return []
    return sorted({str(Path(index).parent / part) for part in named.values()})


def _read_json(folder: Path, name: str, state: State) -> object:
    try:
        return json.loads((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        state.damaged[name] = error.strerror or "not readable" if isinstance(error, OSError) else "not valid JSON"
    return None


def _weights_problem(path: Path) -> str | None:
    """What is wrong with a .safetensors file: its header gives the length that it must have."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start = file.read(8)
        # Read as safetensors, these bytes are the length of a header, far too large: a message that explains nothing.
        if start == b"version ":
            return "a git-lfs pointer instead of the file"
        with safe_open(path, framework="numpy"):  # opens by the header alone; numpy, as torch takes seconds to load
            return None
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or str(error)
        cut = "incomplete" in text.lower() or "too small" in text.lower()
        return "its length is not what its header says" if cut else text.splitlines()[0][:80]
