"""The models that are measured: components with random weights, and what is built from them, written once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from vlv.resources import recipes_folder

SIDES = {"tiny": (64, 128), "full": (384, 768)}  # of the decoder's and the encoder's pixels
_QUERIES = 77


@dataclass(frozen=True)
class World:
    """Folders of the components, of a new stage-1 model on them, and of a new captioner on that."""

    stable_diffusion: str
    florence2: str
    language_model: str
    stage1: str
    captioner: str


def make_world(folder: Path, size: str, language_model: str, captioner: bool) -> World:
    """Write whatever of it is not there, each part by a process of its own, whose memory is free again.

    Args:
        size: tiny or full.
        captioner: whether the language model and the captioner are wanted.
    """
    name = language_model if size == "full" else "qwen"
    world = World(
        stable_diffusion=str(folder / "stable-diffusion"),
        florence2=str(folder / "florence2"),
        language_model=str(folder / name),
        stage1=str(folder / "stage1"),
        captioner=str(folder / f"captioner_{name}"),
    )
    parts = ["stable_diffusion", "florence2", "stage1", *(["language_model", "captioner"] if captioner else [])]
    for part in parts:
        path = Path(getattr(world, part))
        marker = path.with_name(f".{path.name}.written")
        if not marker.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"writing {path}: random weights", file=sys.stderr)
            request = json.dumps({"part": part, "folder": str(folder), "size": size, "name": name})
            subprocess.run([sys.executable, "-m", "vlv.benchmarks.worlds", request], check=True)
            marker.touch()  # last: a folder without it was interrupted, and is written anew
    return world


def _write(part: str, folder: Path, size: str, name: str) -> None:
    """Write one part."""
    import torch

    from vlv.testing import components, full_size

    torch.manual_seed(0)
    configs = recipes_folder() / "components"
    sentences: list[str] = list(components.SENTENCES)
    full = size == "full"
    if part == "stable_diffusion":
        path = folder / "stable-diffusion"
        if full:
            full_size.write_stable_diffusion(path, configs / "stable-diffusion-2-1-base")
        else:
            components.write_stable_diffusion(path, sentences)
    elif part == "florence2":
        if full:
            full_size.write_florence2(folder / "florence2", configs / "Florence-2-large")
        else:
            components.write_florence2(folder / "florence2", sentences)
    elif part == "language_model":
        if full:
            full_size.write_language_model(folder / name, configs / name)
        else:
            components.write_qwen(folder / name, sentences)
    elif part == "stage1":
        from vlv.decoders import DecoderSettings
        from vlv.encoders import EncoderSettings
        from vlv.models.autoencoder import VLVAutoEncoder

        model = VLVAutoEncoder.from_components(
            str(folder / "stable-diffusion"),
            str(folder / "florence2"),
            DecoderSettings(resolution=SIDES[size][0]),
            EncoderSettings(_QUERIES, SIDES[size][1]),
        )
        model.save_pretrained(folder / "stage1")
    else:
        from vlv.models.from_stage1 import CaptionerSettings, captioner_from_stage1

        settings = CaptionerSettings(trained=["mlp", "llm", "encoder"], max_caption_tokens=300)
        captioner_from_stage1(str(folder / "stage1"), str(folder / name), settings).save_pretrained(
            folder / f"captioner_{name}"
        )


if __name__ == "__main__":
    from vlv.checkpoints.pretrained import no_progress_bars

    wanted = json.loads(sys.argv[1])
    with no_progress_bars():
        _write(wanted["part"], Path(wanted["folder"]), wanted["size"], wanted["name"])
