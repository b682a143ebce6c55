"""Evaluation of the small world's trained models; each result is kept in a folder and not computed again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlv.shapes.runs import FAMILY, GUIDANCE, Settings, Value, caption, reconstruct

if TYPE_CHECKING:
    import torch
    from PIL import Image

Result = dict[str, float | None]


@dataclass(frozen=True)
class Sampling:
    """How pictures are generated, and by which features their distance (FD) to the originals is measured."""

    guidance: float = GUIDANCE
    steps: int = 50
    extractor: str = "efficientnet_lite0"
    rows: int | None = None

    @property
    def settings(self) -> Settings:
        """Of `vlv reconstruct`."""
        return {
            "guidance_scale": self.guidance,
            "num_inference_steps": self.steps,
            "extractor": self.extractor,
            **({} if self.rows is None else {"first_queries": self.rows}),
        }


FULL_SAMPLING = Sampling()


def measured_captions(captioner: Path, images: Path, folder: Path, **settings: Value) -> Result:
    """Caption the images and measure."""
    from vlv.shapes.measure_files import measure

    folder.mkdir(parents=True, exist_ok=True)
    values = measure(caption(captioner, images, folder / "captions.json", settings))
    kept = ("f1", "precision", "recall", "exact", "hallucinations", "spatial_error", "false_relations")
    return {f"caption_{name}": values[name] for name in kept}


def measured_pictures(stage1: Path, images: Path, folder: Path, sampling: Sampling) -> Result:
    """Reconstruct the images and measure."""
    from vlv.shapes.measure_files import measure

    output = reconstruct(stage1, images, folder / "pictures", sampling.settings)
    values = measure(output / "reconstructions")
    metrics = json.loads((output / "metrics.json").read_text())["seeds"][0]
    # The Frechet distance alone: a kernel distance takes both sets for independent, and these are pairs.
    distances = {name: value for name, value in metrics.items() if name.startswith("fd_")}
    return {
        "reconstruction_f1": values["f1"],
        "reconstruction_exact": values["exact"],
        "reconstruction_clean": values["clean"],
        **distances,
    }


def sentences(out: Path, guidance: float, count: int, steps: int = 50) -> dict[str, float]:
    """Measures of what the frozen Stable Diffusion generates from the true descriptions of the first test scenes."""
    path = out / "measured" / f"sentences_{count}_{guidance:g}.json"
    if not path.exists():
        import torch
        from transformers import AutoTokenizer, CLIPTextModel

        from scripts.small_world.pretraining.evaluation import SentencePictures
        from vlv.decoders import DecoderSettings, build_decoder
        from vlv.shapes.render import RESOLUTION

        folder = FAMILY / "stable-diffusion"
        pictures = SentencePictures(
            build_decoder(folder, DecoderSettings(resolution=RESOLUTION)),
            CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            guidance,
            steps,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(pictures.measure("test", count).to_dict(), indent=2) + "\n")
    return json.loads(path.read_text())


def family(count: int = 1_000) -> Result:
    """The VAE's round trip on test scenes, and the distances that reconstructions' distances stand beside.

    fd_of_vae_round_trip, fd_of_other_jitter: of pictures after the VAE, and of the same scenes drawn with another
        jitter, to the scenes' own pictures.
    """
    import torch
    from diffusers import AutoencoderKL

    from scripts.small_world.pretraining.evaluation import through_vae
    from vlv.shapes.measures import measure_pictures
    from vlv.shapes.render import render
    from vlv.shapes.scene import make_scene

    vae = AutoencoderKL.from_pretrained(FAMILY / "stable-diffusion" / "vae", torch_dtype=torch.float32)
    scenes = [make_scene("test", number) for number in range(count)]
    pictures = [render(scene, number) for number, scene in enumerate(scenes)]
    decoded, psnr = through_vae(vae, pictures)
    values = measure_pictures(decoded, scenes).to_dict()
    jittered = [render(scene, count + number) for number, scene in enumerate(scenes)]
    return {
        "vae_round_trip_f1": values["f1"],
        "vae_round_trip_clean": values["clean"],
        "vae_round_trip_psnr_db": psnr,
        "fd_of_vae_round_trip": _distance(pictures, decoded),
        "fd_of_other_jitter": _distance(pictures, jittered),
    }


def _distance(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    """The Frechet distance that `vlv reconstruct extractor=efficientnet_lite0` measures."""
    import numpy as np
    import torch

    from vlv.evaluation.extractors.efficientnet_lite0 import EfficientNetLite0
    from vlv.evaluation.extractors.interface import resize_square
    from vlv.evaluation.measures.frechet import frechet_distance

    autoencoder: Any = None  # EfficientNet takes nothing of a model
    extractor = EfficientNetLite0().build(autoencoder, None, "cpu")

    def features(images: Sequence[Image.Image]) -> torch.Tensor:
        squares = [torch.from_numpy(np.array(resize_square(image, extractor.side))) for image in images]
        batches = [torch.stack(squares[start : start + 32]) for start in range(0, len(squares), 32)]
        return torch.cat([extractor(batch.permute(0, 3, 1, 2)) for batch in batches])

    return frechet_distance(features(pictures), features(others)).value


def validation_loss(final: Path) -> float:
    """The last validation loss of the run whose finished model is `final`."""
    lines = [json.loads(line) for line in (final.parent / "metrics.jsonl").read_text().splitlines()]
    return [line["val/loss"] for line in lines if "val/loss" in line][-1]


def mean_and_range(results: Iterable[Result]) -> Result:
    """The mean of each measure over several seeds, and for the F1s the least and the most."""
    together = list(results)
    mean: Result = {}
    for key in together[0]:
        values = [value for result in together if (value := result[key]) is not None]
        mean[key] = sum(values) / len(values)
        if key.endswith("_f1"):
            mean |= {f"{key}_min": min(values), f"{key}_max": max(values)}
    return mean
