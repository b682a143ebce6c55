"""Evaluation of the small world's trained models; each result is kept in a folder and not computed again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlv.shapes.runs import FAMILY, GUIDANCE, Settings, Value, caption, reconstruct

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


def family() -> Result:
    """The VAE's round trip on test scenes."""
    import torch
    from diffusers import AutoencoderKL

    from scripts.small_world.pretraining.evaluation import vae_round_trip

    vae = AutoencoderKL.from_pretrained(FAMILY / "stable-diffusion" / "vae", torch_dtype=torch.float32)
    values = vae_round_trip(vae, "test", 1_000)
    return {"vae_round_trip_f1": values["f1"], "vae_round_trip_psnr_db": values["psnr_db"]}


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
