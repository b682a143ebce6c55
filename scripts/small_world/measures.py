"""Measures of the embedded world's runs, each kept in a folder and not taken again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlv.shapes.runs import FAMILY, GUIDANCE, caption, one_at_a_time, reconstruct

Result = dict[str, Any]


def measured_captions(captioner: Path, images: Path, folder: Path) -> Result:
    """Caption the images and measure."""
    from vlv.shapes.measure_files import measure

    folder.mkdir(parents=True, exist_ok=True)
    values = measure(caption(captioner, images, folder / "captions.json"))
    kept = ("f1", "precision", "recall", "exact", "hallucinations", "spatial_error", "false_relations")
    return {f"caption_{name}": values[name] for name in kept}


def measured_pictures(
    stage1: Path, images: Path, folder: Path, guidance: float, steps: int = 50, extractor: str = "efficientnet_lite0"
) -> Result:
    """Draw the images back and measure."""
    from vlv.shapes.measure_files import measure

    settings = {"num_inference_steps": steps, "extractor": extractor}
    drawn = reconstruct(stage1, images, folder / "pictures", guidance, **settings)
    values = measure(drawn / "reconstructions")
    metrics = json.loads((drawn / "metrics.json").read_text())["seeds"][0]
    distances = {name: value for name, value in metrics.items() if name.startswith(("fd_", "kd_"))}
    return {"reconstruction_f1": values["f1"], "reconstruction_exact": values["exact"], **distances}


def sentences(out: Path, guidance: float, count: int, steps: int = 50) -> Result:
    """What the frozen Stable Diffusion draws from the true descriptions of the first test scenes."""
    path = out / "measured" / f"sentences_{count}_{guidance:g}.json"
    if not path.exists():
        import torch
        from transformers import AutoTokenizer, CLIPTextModel

        from scripts.small_world.pretraining.evaluation import drawn_from_sentences
        from vlv.decoders import DecoderSettings, build_decoder
        from vlv.shapes.render import RESOLUTION

        folder = FAMILY / "stable-diffusion"
        decoder = build_decoder(folder, DecoderSettings(resolution=RESOLUTION))
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        measures, _ = drawn_from_sentences(
            decoder, encoder, tokenizer, "test", count, guidance, steps, scheduler="ddim"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measures.to_dict(), indent=2) + "\n")
    return json.loads(path.read_text())


def family() -> Result:
    """The VAE's round trip on test scenes."""
    import torch
    from diffusers import AutoencoderKL

    from scripts.small_world.pretraining.evaluation import vae_round_trip

    vae = AutoencoderKL.from_pretrained(FAMILY / "stable-diffusion" / "vae", torch_dtype=torch.float32)
    values = vae_round_trip(vae, "test", 1_000)
    return {"vae_round_trip_f1": values["f1"], "vae_round_trip_psnr_db": values["psnr_db"]}


def untrained_stage1(folder: Path) -> Path:
    """A stage-1 model whose queries and projection are new, and whose Florence-2 is as it was."""
    with one_at_a_time(folder):
        if not folder.is_dir():
            import torch

            from vlv import VLVAutoEncoder
            from vlv.decoders import DecoderSettings
            from vlv.encoders import EncoderSettings

            torch.manual_seed(42)
            model = VLVAutoEncoder.from_components(
                str(FAMILY / "stable-diffusion"),
                str(FAMILY / "florence2"),
                DecoderSettings(resolution=64),
                EncoderSettings(32, resolution=64),
            )
            model.save_pretrained(folder)
    return folder


def own_model(stage1: Path, captioner: Path, folder: Path) -> Path:
    """A stage-1 model with a captioner's own encoder, to draw with."""
    if not folder.is_dir():
        from vlv import VLVAutoEncoder
        from vlv.checkpoints.initial import load_initial

        model = VLVAutoEncoder.from_pretrained(stage1)
        load_initial(model, str(captioner))
        model.save_pretrained(folder)
    return folder


def composition(stage1: Path, folder: Path, count: int = 200) -> Result:
    """Join two pictures' embeddings, the first halves and the whole; draw, measure, keep a sheet of the first pictures.

    The sheet's rows: both pictures, drawn from the halves, drawn from the whole.
    """
    from PIL import Image

    from scripts.small_world.composition import composable_pairs, draw_compositions, measure_compositions
    from vlv import VLVAutoEncoder
    from vlv.shapes.render import render
    from vlv.shapes.scene import make_scene

    scenes = [make_scene("test", number) for number in range(2_000)]
    pairs = composable_pairs(scenes, count)
    sides = [[render(scenes[pair[side]], pair[side]) for pair in pairs] for side in (0, 1)]
    model = VLVAutoEncoder.from_pretrained(stage1)
    queries = model.encoder.num_queries
    result, sheets = {}, list(sides)
    for name, rows in (("halves", queries // 2), ("whole", queries)):
        drawn = draw_compositions(model, sides[0], sides[1], rows, guidance=GUIDANCE, steps=50)
        sheets.append(drawn)
        measured = measure_compositions(drawn, [(scenes[first], scenes[second]) for first, second in pairs])
        result |= {f"{name}_{key}": value for key, value in measured.items() if key != "count"}
    folder.mkdir(parents=True, exist_ok=True)
    sheet = Image.new("RGB", (8 * 68, len(sheets) * 68), "white")
    for column in range(8):
        for row, pictures in enumerate(sheets):
            sheet.paste(pictures[column], (column * 68 + 2, row * 68 + 2))
    sheet = sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
    sheet.save(folder / "sheet.png")
    return {**result, "count": count}
