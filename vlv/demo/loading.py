"""The models behind the page, from a captioner's folder."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import CheckpointError, recorded_place
from vlv.checkpoints.origin import preview_stage1
from vlv.decoders.prompts import PromptEncoder
from vlv.demo.model import DemoModel, Pictures
from vlv.models.captioner import VLVCaptioner
from vlv.models.from_stage1 import decoder_folder_of, preview_autoencoder


def load_demo_model(
    captioner: VLVCaptioner,
    folder: Path,
    decoder: str | None = None,
    stage1_path: str | None = None,
    florence2: str | None = None,
) -> DemoModel:
    """Add to a captioner what draws its pictures, on the captioner's device and in its number format.

    Args:
        folder: the captioner's.
        decoder: folder or hub id of the frozen decoder; None is where training found it. Where it is not there any
            more, the page has no pictures: nothing is downloaded that was not asked for.
        stage1_path, florence2: the stage-1 model and Florence-2, where they have moved.

    Raises:
        ValueError: a decoder that is given but cannot be used.
    """
    try:
        pictures = _load_pictures(captioner, folder, decoder, stage1_path, florence2)
    except CheckpointError as error:
        if decoder is not None or stage1_path is not None:
            raise
        return DemoModel(captioner, None, str(error))
    return DemoModel(captioner, pictures)


def _load_pictures(
    captioner: VLVCaptioner, folder: Path, decoder: str | None, stage1_path: str | None, florence2: str | None
) -> Pictures:
    preview_stage1(folder, stage1_path)  # first: without it nothing need be loaded
    trained_on = recorded_place(captioner.origin["decoder"]["source"], folder)
    if decoder is None and not Path(trained_on).is_dir():
        raise CheckpointError(
            f"the frozen decoder that it was trained with, {trained_on}, is not here: set stable_diffusion_model_path "
            "to its folder or hub id"
        )
    autoencoder = preview_autoencoder(folder, stage1_path, decoder, florence2, captioner)
    autoencoder.set_dtypes(captioner.compute_dtype, captioner.compute_dtype)
    autoencoder.to(next(captioner.parameters()).device)
    # Of stage 1's decoder, whose text encoders are cast and moved with it.
    conditioner = autoencoder.decoder.conditioner
    prompts = PromptEncoder(decoder_folder_of(captioner, decoder), conditioner) if conditioner.token_tables() else None
    return Pictures(autoencoder, prompts)
