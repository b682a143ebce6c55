"""Stage 1's model: image -> caption embeddings -> frozen diffusion decoder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, Tensor
from transformers import PreTrainedConfig

from vlv.checkpoints.hub import HubUpload
from vlv.checkpoints.identity import CONFIG_NAME, OWN_BASES, STAGE1_TYPE, WEIGHTS_NAME, JsonObject, component_identity
from vlv.checkpoints.pretrained import load_trained, resolve_base, resolve_checkpoint, resolve_component
from vlv.checkpoints.schema import describe, read_description
from vlv.decoders import Conditioning, DecoderSettings, DiffusionDecoder, NoiseAndTimesteps, build_decoder
from vlv.encoders import EncoderPart, EncoderSettings, VisionEncoder, build_encoder
from vlv.frozen import FrozenStaysEval, checkpoint_frozen_layers, set_dtypes
from vlv.losses import LossOptions
from vlv.models.image_processor import ImageInput, VLVImageProcessor, to_images
from vlv.sampling import mix_seed

_OF_AUTO_MODEL = {"config", "trust_remote_code", "adapter_kwargs"}  # it always gives them; nothing here needs them


class VLVAutoEncoderConfig(PreTrainedConfig):
    """What `VLVAutoEncoder.describe` writes, for transformers' AutoConfig: how the model is built from its bases."""

    model_type = STAGE1_TYPE

    trained: EncoderPart = "language_model"
    conditioning: str = "text_encoder"
    num_queries: int = 77
    prompt_ids: list[int] | None = None
    spaces: dict[str, int] | None = None
    bases: dict[str, dict[str, str]] | None = None
    vocab_rows: int | None = None
    region_grid: int | None = None
    region_blocks: int | None = None
    loss_options: dict[str, float | bool] | None = None


class VLVAutoEncoder(HubUpload, FrozenStaysEval):
    """Stage 1's model: a vision encoder that trains, and a frozen diffusion decoder (arXiv 2507.07104).

    Shapes: B images, R and E decoder and encoder pixels, Q queries, C, h, w the latents'.
    """

    config_class = VLVAutoEncoderConfig

    def __init__(
        self,
        encoder: VisionEncoder,
        decoder: DiffusionDecoder,
        image_processor: VLVImageProcessor,
        bases: dict[str, dict[str, str]],
        conditioning: str,
        trained: EncoderPart = "language_model",
    ) -> None:
        """Hold the parts and choose what trains.

        Args:
            bases: identity of the frozen bases, `florence2` and `decoder` (see `component_identity`).
            conditioning: text_encoder, clip or direct (see `DecoderSettings`).
            trained: what of the encoder trains.
        """
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.image_processor = image_processor
        self.bases = bases
        self.conditioning = conditioning
        self.trained: EncoderPart = trained
        self.compute_dtype = torch.float32
        encoder.set_trained(trained)
        self.eval()

    def embed(self, encoder_pixels: Tensor) -> Conditioning:
        """Conditioning ([B, Q, D] states) of uint8 encoder pixels [B, 3, E, E], or of decoder pixels [B, 3, R, R]."""
        return self.decoder.conditioner(self.encoder(self.image_processor.encoder_view(encoder_pixels)))

    def forward(
        self, encoder_pixels: Tensor, decoder_pixels: Tensor, sampled: NoiseAndTimesteps,
        dropped: Tensor | None = None, crops: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Denoising loss of each image, [B] fp32, from uint8 pixels [B, 3, E, E] and [B, 3, R, R].

        Args:
            sampled: for B images, or B for each of several draws of noise, whose mean the loss is then.
            dropped: [B] bool, images whose conditioning is replaced by the empty prompt's.
            crops: [B, 4], where the decoder's pixels come from (see `VLVImageProcessor`); None: whole images.
        """
        images = len(decoder_pixels)
        latents = self.decoder.encode_images(decoder_pixels, sampled.posterior_noise[:images])  # [B, C, h, w]
        conditioning = self.embed(encoder_pixels)
        if (draws := len(sampled.timesteps) // images) > 1:
            latents, conditioning = latents.repeat(draws, 1, 1, 1), conditioning.repeat(draws)
            dropped = None if dropped is None else dropped.repeat(draws)
            crops = None if crops is None else crops.repeat(draws, 1)
        losses = self._denoising_loss(latents, conditioning, sampled, dropped, crops)  # [draws B]
        return losses.unflatten(0, (draws, images)).mean(0)

    def _denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, dropped: Tensor | None,
        crops: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Denoising loss of each row, [B], some of them on the empty prompt's conditioning."""
        if dropped is None:
            return self.decoder.denoising_loss(latents, conditioning, sampled, crops)
        empty = self.decoder.unconditional(conditioning)
        if empty.states.shape == conditioning.states.shape:
            return self.decoder.denoising_loss(latents, empty.where(dropped, conditioning), sampled, crops)
        # An empty prompt with a row count of its own (SD 3.5 direct) cannot share a batch, and cut to the queries it
        # would not be the one that generation guides with. All samples pass both, so that every process calls the
        # denoiser equally often; nothing that trains acts on the empty prompt's loss, so it needs no gradient.
        with torch.no_grad():
            without = self.decoder.denoising_loss(latents, empty, sampled, crops)
        return torch.where(dropped, without, self.decoder.denoising_loss(latents, conditioning, sampled, crops))

    @property
    def device(self) -> torch.device:
        """Where the encoder's weights lie."""
        return next(self.encoder.parameters()).device

    def autocast(self) -> AbstractContextManager[object]:
        """The number format that inference computes in."""
        return torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32)

    def set_dtypes(self, compute_dtype: torch.dtype, param_dtype: torch.dtype) -> VLVAutoEncoder:
        """Number formats of frozen and of trained weights; the VAE stays in fp32."""
        set_dtypes(self, compute_dtype, param_dtype)
        self.compute_dtype = compute_dtype
        return self

    @torch.no_grad()
    def reconstruct_pixels(
        self,
        encoder_pixels: Tensor,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
        scheduler: str = "auto",
    ) -> Tensor:
        """Reconstruct images, uint8 [B, 3, R, R], from uint8 encoder pixels [B, 3, E, E].

        Args:
            guidance_scale, num_inference_steps, scheduler: as `reconstruct` takes them.
            generators: one CPU generator an image; the noise depends on it alone.
        """
        with self.autocast():
            return self.decoder.generate_images(
                self.embed(encoder_pixels.to(self.device)),
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                generators=generators,
                scheduler=scheduler,
            )

    def reconstruct(
        self,
        images: Sequence[ImageInput],
        guidance_scale: float = 2.0,
        num_inference_steps: int = 50,
        seeds: int | list[int] = 42,
        scheduler: str = "auto",
        batch_size: int = 8,
    ) -> list[Image.Image]:
        """Reconstruct images from their embeddings, as RGB images of the decoder's resolution.

        Args:
            images: PIL images or paths of image files, of any number, size and mode.
            guidance_scale: classifier-free guidance; 1 switches it off.
            num_inference_steps: denoising steps.
            seeds: one seed an image, or one for all; the noise of image i then comes from (seed, i).
            scheduler: the sampler: ddpm, ddim, dpm++, euler, pndm or heun, as far as the decoder has it; auto is
                the decoder's own.
            batch_size: images that are generated at once.

        Returns:
            One image for each of `images`, in their order.

        Raises:
            ValueError: a single image in place of a list, a file that cannot be read, or another number of seeds.
        """
        batches = self.image_processor.batches(images, batch_size)
        if isinstance(seeds, int):
            seeds = [mix_seed(seeds, row) for row in range(len(images))]
        if len(seeds) != len(images):
            raise ValueError(f"{len(seeds)} seeds for {len(images)} images: give one an image, or a single one")
        generators = iter([Generator().manual_seed(seed) for seed in seeds])
        pictures: list[Image.Image] = []
        for batch in batches:
            pixels = self.reconstruct_pixels(
                batch["encoder_pixels"],
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                generators=list(islice(generators, len(batch["encoder_pixels"]))),
                scheduler=scheduler,
            )
            pictures += to_images(pixels)
        return pictures

    def trained_state(self) -> dict[str, Tensor]:
        """The trained weights by name, each once."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def save_pretrained(self, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
        """Write config.json, preprocessor_config.json, a card, and model.safetensors with only the trained weights.

        Bases inside the checkpoint's own folder are copied.

        Args:
            state: the trained weights, where they were gathered from several processes.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous().cpu() for name, value in (state or self.trained_state()).items()}
        save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})
        self.save_description(folder)
        self._copy_own_bases(folder)
        self.save_card(folder)

    def save_description(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json: all of a checkpoint but the weights."""
        self.image_processor.save_pretrained(folder)
        (folder / CONFIG_NAME).write_text(json.dumps(self.describe(), indent=2) + "\n")

    def _copy_own_bases(self, folder: Path) -> None:
        own = [base["source"] for base in self.bases.values() if base["source"].startswith(OWN_BASES)]
        # Saved into the folder that it was loaded from, they lie there already.
        if own and (self.loaded_from is None or self.loaded_from.resolve() == folder.resolve()):
            return
        for source in own:
            assert self.loaded_from is not None
            shutil.copytree(self.loaded_from / source, folder / source, dirs_exist_ok=True)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward, in the encoder and in the decoder's denoiser."""
        self.encoder.enable_gradient_checkpointing()
        checkpoint_frozen_layers(self.decoder.conditioner)
        self.decoder.enable_gradient_checkpointing()

    def describe(self) -> JsonObject:
        """What config.json says: how the model is built again from its bases, and how its loss was weighted."""
        plain = dataclasses.asdict(LossOptions())
        options = dataclasses.asdict(self.decoder.loss_options)
        weighted = {name: value for name, value in options.items() if value != plain[name]}
        return describe("stage1", {**self.identity(), "loss_options": weighted or None})

    def identity(self) -> JsonObject:
        """The part of `describe` that a run which resumes must agree on."""
        values = {
            "trained": self.trained,
            "conditioning": self.conditioning,
            "bases": self.bases,
            **self.encoder.describe(),
        }
        return describe("stage1", values)

    @classmethod
    def from_components(
        cls,
        stable_diffusion: str,
        florence2: str,
        decoder_settings: DecoderSettings | None = None,
        encoder_settings: EncoderSettings | None = None,
    ) -> VLVAutoEncoder:
        """A new model on pretrained components (folders or hub ids), on the CPU.

        The encoder is in fp32; so is the decoder, unless its settings name another format.

        Raises:
            ValueError: a component that is missing or does not fit.
        """
        decoder_settings = decoder_settings or DecoderSettings()
        encoder_settings = encoder_settings or EncoderSettings()
        decoder_folder = resolve_component(stable_diffusion, "stable_diffusion_model_path")
        florence2_folder = resolve_component(florence2, "florence2_model_path")
        decoder = build_decoder(decoder_folder, decoder_settings)
        encoder = build_encoder(florence2_folder, decoder.conditioner.spaces, encoder_settings)
        bases = {
            "florence2": component_identity(florence2_folder, florence2),
            "decoder": component_identity(decoder_folder, stable_diffusion),
        }
        image_processor = VLVImageProcessor(
            decoder_settings.resolution, encoder_settings.resolution, encoder_settings.view_from_original
        )
        conditioning, trained = decoder_settings.conditioning, encoder_settings.trained
        return cls(encoder, decoder, image_processor, bases, conditioning, trained)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        stable_diffusion: str | None = None,
        florence2: str | None = None,
        **options: Any,
    ) -> VLVAutoEncoder:
        """Load a stage-1 checkpoint onto its frozen bases, on the CPU.

        Args:
            folder: what `save_pretrained` wrote, or its hub id.
            stable_diffusion, florence2: where the bases lie, if they have moved since training.
            options: of `DecoderSettings`, `dtype` and what one family has; and the hub's `revision`, `token`, ... (see
                `resolve_checkpoint`).

        Raises:
            ValueError: not a stage-1 checkpoint, a missing base, other bases than it was trained with,
                or weights that do not fit.
        """
        folder = resolve_checkpoint(folder, "stage1", options)
        known = DecoderSettings.loading_options() & options.keys()
        decoder_options = {name: options.pop(name) for name in known}
        unknown = options.keys() - _OF_AUTO_MODEL
        if unknown:
            raise TypeError(f"VLVAutoEncoder.from_pretrained takes no {', '.join(sorted(unknown))}")
        described = read_description(folder, "stage1")
        bases = described["bases"]
        processor = VLVImageProcessor.from_pretrained(folder)
        model = cls.from_components(
            resolve_base(bases["decoder"], stable_diffusion, "stable_diffusion_model_path", folder),
            resolve_base(bases["florence2"], florence2, "florence2_model_path", folder),
            DecoderSettings(described["conditioning"], processor.decoder_resolution, **decoder_options),
            EncoderSettings.of_checkpoint(
                described, processor.encoder_resolution, processor.encoder_view_from_original
            ),
        )
        model.encoder.restore(described)
        model.decoder.set_loss_options(LossOptions(**described.get("loss_options", {})))
        for name, given in (("decoder", stable_diffusion), ("florence2", florence2)):
            if given is None and bases[name]["source"].startswith(OWN_BASES):
                model.bases[name] = bases[name]  # relative, as it stays when the folder moves
        load_trained(model, folder / WEIGHTS_NAME)
        model.loaded_from = folder
        return model.eval()
