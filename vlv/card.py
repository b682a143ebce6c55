"""The model card of a finished checkpoint, written from its own files: recipe, data, steps, metrics, bases, use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlv.identity import CONFIG_NAME, STAGE1_TYPE, read_json
from vlv.inspection import describe_checkpoint

CARD_NAME = "README.md"
# Licences of the components that the recipes use, by a part of their name; a base's own card comes first.
_LICENCES = {
    "stable-diffusion-2": "CreativeML Open RAIL++-M",
    "stable-diffusion-v1": "CreativeML Open RAIL-M",
    "florence-2": "MIT",
    "qwen2.5-3b": "Qwen Research License",
    "qwen2.5-0.5b": "Apache-2.0",
    "qwen2.5-1.5b": "Apache-2.0",
}
_USE = {
    True: (
        "VLV stage 1: an encoder into the embedding space of a frozen text-to-image model",
        'from vlv import VLVAutoEncoder\n\nmodel = VLVAutoEncoder.from_pretrained("PATH")  # onto the bases below\n'
        "pictures = model.reconstruct(images)",
    ),
    False: (
        "VLV captioner",
        'from vlv import VLVCaptioner\n\ncaptioner = VLVCaptioner.from_pretrained("PATH")\n'
        "captions = captioner.caption(images)",
    ),
}


def write_card(folder: Path, training: dict[str, Any] | None = None) -> None:
    """Write README.md beside a finished checkpoint's files."""
    (folder / CARD_NAME).write_text(model_card(folder, training))


def model_card(folder: Path, training: dict[str, Any] | None = None) -> str:
    """The card's text.

    Args:
        folder: the checkpoint's.
        training: what only the run knows: its data and its steps.

    Raises:
        CheckpointError: the folder is no checkpoint of ours.
    """
    facts = describe_checkpoint(folder)
    if "came from stage 1" in facts:
        facts["came from stage 1"] = _public(facts["came from stage 1"])
    title, use = _USE[read_json(folder / CONFIG_NAME)["model_type"] == STAGE1_TYPE]
    sections = [
        f"---\nlibrary_name: vlv\npipeline_tag: image-to-text\ntags: [vlv]\n---\n\n# {title}",
        "Trained with the VLV code (arXiv 2507.07104): a frozen text-to-image model, shown images alone, teaches an "
        "encoder, and a language model learns to read its embeddings.",
        f"## Use\n```python\n{use}\n```",
        _table("Facts", {key: value for key, value in facts.items() if not key.startswith(("base ", "recipe"))}),
        *([_table("Training", training)] if training else []),
        _table("Recipe", {key.removeprefix("recipe "): v for key, v in facts.items() if key.startswith("recipe")}),
        _table("Base models and their licences", _bases(facts)),
    ]
    return "\n\n".join(sections) + "\n"


def _bases(facts: dict[str, Any]) -> dict[str, str]:
    return {
        key.removeprefix("base "): f"{_public(source)}: {_licence(source)}"
        for key, source in facts.items()
        if key.startswith("base ")
    }


def _public(source: str) -> str:
    """A place as others may see it: of a path on this machine the end alone, with the run's name before `final`."""
    path = Path(source)
    if not path.is_absolute():
        return source
    return f"{path.parent.name}/{path.name}" if path.name == "final" else path.name


def _licence(source: str) -> str:
    card = Path(source) / CARD_NAME
    if card.is_file():
        for line in card.read_text(errors="replace").splitlines()[:30]:
            if line.startswith("license:"):
                return line.removeprefix("license:").strip()
    known = next((licence for name, licence in _LICENCES.items() if name in source.lower()), None)
    return known or "see the base's own card"


def _table(title: str, rows: dict[str, Any]) -> str:
    lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "| | |", "| --- | --- |", *lines])
