"""How a captioner is made from a stage-1 model, and how it finds the model that reconstructs its images."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    CheckpointError,
    component_identity,
    file_hash,
    read_json,
)
from vlv.checkpoints.origin import preview_stage1
from vlv.checkpoints.pretrained import (
    load_language_model,
    load_tokenizer,
    load_trained,
    resolve_base,
    resolve_component,
)
from vlv.checkpoints.schema import require_checkpoint
from vlv.decoders import Conditioner, DecoderSettings, DiffusionDecoder, build_decoder, load_conditioner
from vlv.encoders import EncoderSettings, VisionEncoder, build_encoder
from vlv.losses import LossOptions
from vlv.models.adapter import NEVER_TRAINED
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.captioner import VLVCaptioner
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.image_token import image_token_id
from vlv.models.loading import quantization
from vlv.models.lora import LoraSettings, add_lora


@dataclass(frozen=True)
class CaptionerSettings:
    """How a captioner is made.

    Args:
        trained: parts that train (see `VLVCaptioner.set_trained`).
        max_caption_tokens: captions are cut here in training; the default length of generation.
        draws_with_own_weights: whether the denoising loss keeps its embeddings decodable.
        llm_dtype: number format in which the language model is loaded.
        lora: trained beside the language model's weights in place of them.
        quantize: int4, of those weights; None leaves them in llm_dtype.
    """

    trained: list[str]
    max_caption_tokens: int = 300
    draws_with_own_weights: bool = False
    llm_dtype: torch.dtype = torch.float32
    lora: LoraSettings | None = None
    quantize: str | None = None


def captioner_from_stage1(
    stage1: str | Path,
    language_model: str,
    settings: CaptionerSettings,
    stable_diffusion: str | None = None,
    florence2: str | None = None,
) -> VLVCaptioner:
    """A new captioner on a finished stage 1 and a pretrained language model, on the CPU.

    The encoder's weights are stage 1's, the projector is random from torch's seed. UNet and VAE are not read.

    Args:
        stable_diffusion, florence2: where stage 1's bases lie, if they have moved since training.

    Raises:
        ValueError: a folder that is missing or is something else; bases other than stage 1's.
    """
    folder = require_checkpoint(stage1, "stage1")
    config = read_json(folder / CONFIG_NAME)
    bases = config["bases"]
    decoder_source = resolve_base(bases["decoder"], stable_diffusion, "stable_diffusion_model_path", folder)
    florence2_source = resolve_base(bases["florence2"], florence2, "florence2_model_path", folder)
    llm_folder = resolve_component(language_model, "qwen_model")
    tokenizer = load_tokenizer(llm_folder, "qwen_model")

    image_processor = VLVImageProcessor.from_pretrained(folder)
    decoder_folder = resolve_component(decoder_source, "stable_diffusion_model_path")
    conditioner = load_conditioner(
        decoder_folder, DecoderSettings(config["conditioning"], image_processor.decoder_resolution)
    )
    florence2_folder = resolve_component(florence2_source, "florence2_model_path")
    encoder = _encoder_of_stage1(folder, florence2_folder, conditioner, image_processor)
    llm = load_language_model(llm_folder, settings.llm_dtype, **_quantized(settings))
    _check_language_model(llm, tokenizer, llm_folder)
    prefix = conditioner.num_prefix_tokens(config["num_queries"])
    _check_length(llm, prefix, settings.max_caption_tokens, llm_folder)
    eos_token_id, pad_token_id = end_and_pad_ids(tokenizer, llm_folder)
    captioner_config = VLVCaptionerConfig(
        # Copies: a config that holds a loaded model's own would reset its attention implementation.
        encoder_config=encoder.config.to_dict(),  # type: ignore[operator]  # a PreTrainedModel, see `VisionEncoder`
        llm_config={key: value for key, value in llm.config.to_dict().items() if key != "quantization_config"},
        conditioner=conditioner.to_dict(),
        max_caption_tokens=settings.max_caption_tokens,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        image_token_id=image_token_id(tokenizer),
        tie_word_embeddings=llm.config.tie_word_embeddings,  # type: ignore[call-arg]
        origin={
            "stage1": {"source": str(folder.resolve()), "weights_sha256": file_hash(folder / WEIGHTS_NAME)},
            "decoder": {**bases["decoder"], "source": decoder_source},
            "florence2": {**bases["florence2"], "source": florence2_source},
            "language_model": component_identity(llm_folder, language_model),
            "conditioning": config["conditioning"],
            "trained": settings.trained,
            "draws_with_own_weights": settings.draws_with_own_weights,
            # Where a denoising loss trains beside the captions, it is weighted as stage 1's was.
            **{key: config[key] for key in ("loss_options",) if key in config},
            **({} if settings.lora is None else {"lora": dataclasses.asdict(settings.lora)}),
            **({} if settings.quantize is None else {"quantize": settings.quantize}),
        },
    )
    captioner = VLVCaptioner(captioner_config, encoder, conditioner, llm)
    captioner.tokenizer = tokenizer
    captioner.image_processor = image_processor
    if settings.lora is not None:
        add_lora(captioner.llm, settings.lora, language_model)
    captioner.set_trained(settings.trained)
    return captioner.eval()


def _quantized(settings: CaptionerSettings) -> dict[str, Any]:
    """How the language model is loaded in 4 bits: on the device that it stays on, its head as it is."""
    if settings.quantize is None:
        return {}
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    config = quantization(settings.quantize, torch.device(device).type, settings.llm_dtype, None)
    return {"quantization_config": config, "device_map": {"": device}}


def _encoder_of_stage1(
    stage1: Path, florence2: Path, conditioner: Conditioner, image_processor: VLVImageProcessor
) -> VisionEncoder:
    """Stage 1's encoder with its trained weights."""
    config = read_json(stage1 / CONFIG_NAME)
    encoder = build_encoder(
        florence2,
        conditioner.spaces,
        EncoderSettings.of_checkpoint(config, image_processor.encoder_resolution),
    )
    encoder.restore(config)
    # Names in stage 1's file are those of the whole model.
    load_trained(torch.nn.ModuleDict({"encoder": encoder}), stage1 / WEIGHTS_NAME)
    return encoder


def _check_language_model(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    embeddings = llm.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    rows = embeddings.num_embeddings
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"qwen_model: the tokenizer in {folder} has {len(tokenizer):,} tokens, the model {rows:,} rows: "
            "they are of two models"
        )


def _check_length(llm: PreTrainedModel, prefix: int, max_caption_tokens: int, folder: Path) -> None:
    positions = getattr(llm.config, "max_position_embeddings", None)
    if positions is not None and prefix + max_caption_tokens + 1 > positions:  # and the end token
        raise CheckpointError(
            f"max_caption_tokens={max_caption_tokens} and {prefix} rows of embeddings do not fit the {positions} "
            f"positions of {folder}: give at most {positions - prefix - 1}"
        )


def decoder_of(captioner: VLVCaptioner, stable_diffusion: str | None = None, **options: Any) -> DiffusionDecoder:
    """The frozen diffusion decoder that a captioner's embeddings belong to, with stage 1's loss options.

    It shares the captioner's conditioner, whose text encoders are not loaded a second time.

    Args:
        stable_diffusion: where the decoder lies, if it has moved since training.
        options: fields of `DecoderSettings` that no checkpoint decides.
    """
    origin = captioner.origin
    folder = decoder_folder_of(captioner, stable_diffusion)
    settings = DecoderSettings(origin["conditioning"], captioner.image_processor.decoder_resolution, **options)
    decoder = build_decoder(folder, settings, conditioner=captioner.conditioner)
    decoder.set_loss_options(LossOptions(**origin.get("loss_options", {})))
    return decoder


def decoder_folder_of(captioner: VLVCaptioner, stable_diffusion: str | None = None) -> Path:
    """The folder of that decoder."""
    option, place = "stable_diffusion_model_path", Path(captioner.name_or_path or "captioner")
    return resolve_component(resolve_base(captioner.origin["decoder"], stable_diffusion, option, place), option)


def preview_autoencoder(
    captioner_dir: str | Path,
    stage1_path: str | None = None,
    stable_diffusion: str | None = None,
    florence2: str | None = None,
    captioner: VLVCaptioner | None = None,
    language_model: str | None = None,
) -> VLVAutoEncoder:
    """The model that reconstructs a captioner's images.

    Trained on captions alone, an encoder leaves the decoder's space, so the weights of the stage-1 model are used that
    the captioner came from; one trained with the denoising loss beside them uses its own.

    Args:
        stable_diffusion, florence2, language_model: where bases lie, if they have moved since training.
        captioner: the one in `captioner_dir`, where it is loaded already: then its own weights are not loaded again.

    Raises:
        CheckpointError: the stage-1 model is not there, or is another one, or stands on other frozen bases.
    """
    captioner_dir = require_checkpoint(captioner_dir, "stage2")
    stage1 = preview_stage1(captioner_dir, stage1_path)
    origin = read_json(captioner_dir / CONFIG_NAME)["origin"]
    if stage1 is None:
        if captioner is None:
            captioner = VLVCaptioner.from_pretrained(
                captioner_dir, stable_diffusion=stable_diffusion, florence2=florence2, language_model=language_model
            )
        decoder = decoder_of(captioner, stable_diffusion)
        bases = {"florence2": origin["florence2"], "decoder": origin["decoder"]}
        conditioning: str = origin["conditioning"]
        return VLVAutoEncoder(captioner.encoder, decoder, captioner.image_processor, bases, conditioning, "none")
    if origin["stage1"] is not None and file_hash(stage1 / WEIGHTS_NAME) != origin["stage1"]["weights_sha256"]:
        raise CheckpointError(
            f"{stage1} is not the stage-1 model that {captioner_dir} came from: its weights differ; "
            "set stage1_path to that one"
        )
    model = VLVAutoEncoder.from_pretrained(stage1, stable_diffusion, florence2)
    if origin["stage1"] is None:
        _require_same_frozen(captioner_dir, stage1, model)
    return model


def _require_same_frozen(captioner_dir: Path, stage1: Path, model: VLVAutoEncoder) -> None:
    """An imported captioner names no stage-1 model, but what stage 2 froze is the same in both."""
    theirs, ours = open_state_dict(captioner_dir), model.state_dict()
    for name in theirs:
        if name.startswith(NEVER_TRAINED):
            value, other = theirs[name], ours.get(name if name.startswith("encoder.") else f"decoder.{name}")
            if other is None or not torch.equal(value, other.to(value.dtype)):
                raise CheckpointError(
                    f"{stage1} is not the stage-1 model that {captioner_dir} came from: {name}, which stage 2 does not "
                    "train, differs; set stage1_path to one on the same Stable Diffusion and Florence-2"
                )


def end_and_pad_ids(tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[int, int]:
    """The end token that captions close with, and the padding token (the end token where there is none).

    Raises:
        CheckpointError: the tokenizer has no end token.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if not isinstance(eos, int):
        raise CheckpointError(f"qwen_model: the tokenizer in {folder} has no eos_token, so captions could not end")
    return eos, pad if isinstance(pad, int) else eos
