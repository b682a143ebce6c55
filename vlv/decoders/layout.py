"""What a diffusers folder is, read from its JSON files alone: family, sizes, and what cannot be trained on it.

Both the check of a call (which must not load torch) and the builders read a folder through here, so a rule is written
once. Entering a family in `FAMILIES` gives it all of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlv.checkpoints.identity import CheckpointError, JsonObject, read_json
from vlv.decoders.settings import ConditioningKind, DecoderSettings, EmbeddingSpace
from vlv.limits import T5_ROWS, check_decoder_resolution

# diffusers' schedulers over the betas of DDPM, whose tables DDPM's training objective can take.
_DDPM_SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE",
        "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
        "KDPM2Discrete", "LMSDiscrete", "PNDM", "SASolver", "UniPCMultistep",
    )
)  # fmt: skip
_WEIGHTS = ("model", "pytorch_model", "diffusion_pytorch_model")  # how the names of weight files begin


@dataclass(frozen=True)
class Family:
    """What tells a family's folders from another's, by the keys of their configs.

    Args:
        module: of `vlv.decoders`.
        denoiser: the component's folder.
        states_width: the denoiser's key for the width of the cross-attention states.
        spaces: names of the CLIPs' embedding spaces, of text_encoder, text_encoder_2, ...
        t5: the component's folder, for families that have one.
        pooled: component and key of the pooled vector's width, for families that have one.
        flow: trained by rectified flow instead of DDPM's objective.
        added_embedding: `addition_embed_type` of the UNet.
    """

    module: str
    denoiser: str = "unet"
    states_width: str = "cross_attention_dim"
    spaces: tuple[str, ...] = ("clip",)
    t5: str | None = None
    pooled: tuple[str, str] | None = None
    flow: bool = False
    added_embedding: str | None = None

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Names of the schedulers that generate with it; the decoder's class has them as `schedulers`."""
        return ("euler", "heun") if self.flow else ("ddpm", "ddim", "dpm++", "euler", "pndm")

    @property
    def loss_options(self) -> frozenset[str]:
        """The options of its loss; the decoder's class has them as `supported_loss_options`."""
        return frozenset({"precondition_outputs" if self.flow else "min_snr_gamma"})

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """Folders of the CLIPs, in the order of `spaces`."""
        return ("text_encoder", *(f"text_encoder_{number}" for number in range(2, len(self.spaces) + 1)))


FAMILIES = {
    "StableDiffusionPipeline": Family("stable_diffusion"),
    "StableDiffusionXLPipeline": Family(
        "stable_diffusion_xl",
        spaces=("clip_l", "clip_g"),
        pooled=("text_encoder_2", "projection_dim"),
        added_embedding="text_time",
    ),
    "StableDiffusion3Pipeline": Family(
        "stable_diffusion_3",
        denoiser="transformer",
        states_width="joint_attention_dim",
        spaces=("clip_l", "clip_g"),
        t5="text_encoder_3",
        pooled=("transformer", "pooled_projection_dim"),
        flow=True,
    ),
}


@dataclass(frozen=True)
class DecoderLayout:
    """A decoder's folder as its JSON files describe it; `read_layout` makes it, `check` refuses what cannot work.

    Args:
        index: model_index.json; empty for single components without one.
    """

    folder: Path
    pipeline: str
    index: JsonObject

    @property
    def family(self) -> Family:
        """The entry of `FAMILIES`."""
        return FAMILIES[self.pipeline]

    def config(self, component: str) -> JsonObject:
        """The config.json of a component.

        Raises:
            CheckpointError: it is not there, or is broken.
        """
        path = self.folder / component / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{self.folder} has no {component}/config.json: the copy or download is not complete")
        return read_json(path)

    def _value(self, component: str, key: str) -> Any:
        value = self.config(component).get(key)
        if value is None:
            raise CheckpointError(f"{self.folder}/{component}/config.json does not give {key}: it is another model's")
        return value

    @cached_property
    def scheduler(self) -> JsonObject:
        """The scheduler's config.

        Raises:
            CheckpointError: it is not there, or is broken.
        """
        return read_json(self.folder / "scheduler" / "scheduler_config.json")

    @property
    def num_train_timesteps(self) -> int:
        """Steps of the training schedule: no sampler takes more."""
        return int(self.scheduler.get("num_train_timesteps", 1000))  # diffusers' own default

    @property
    def resolution_multiple(self) -> int:
        """Pixels that a side must be a multiple of: VAE and denoiser halve it as often as they do."""
        halvings = [len(self._value("vae", "block_out_channels")) - 1]
        if self.family.flow:
            return 2 ** halvings[0] * self._value(self.family.denoiser, "patch_size")
        return 2 ** (halvings[0] + len(self._value(self.family.denoiser, "block_out_channels")) - 1)

    @property
    def states_width(self) -> int:
        """Width of the cross-attention states that the denoiser takes."""
        return self._value(self.family.denoiser, self.family.states_width)

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled vector; None for families without one."""
        if self.family.pooled is None:
            return None
        return self._value(*self.family.pooled)

    @property
    def has_t5(self) -> bool:
        """Whether the folder is a model with T5; [null, null] in its index says that it is one without.

        Raises:
            CheckpointError: the index names T5 and the folder does not have it. Without it the empty prompt, and with
                it every guided image, would be another model's.
        """
        name = self.family.t5
        if name is None:
            return False
        there = (self.folder / name / "config.json").is_file()
        named = self.index.get(name)
        if not named or not named[0]:
            return there and named is None
        if not there:
            raise CheckpointError(
                f"{self.folder}: model_index.json names {name} ({named[1]}), which is not there: fetch it, or write "
                f'"{name}": [null, null] into model_index.json for a model without T5'
            )
        return True

    def uses_t5(self, conditioning: ConditioningKind) -> bool:
        """Whether embeddings pass T5."""
        return conditioning == "text_encoder" and self.has_t5

    def spaces(self, conditioning: ConditioningKind) -> tuple[EmbeddingSpace, ...]:
        """The embedding spaces that the encoder has to produce."""
        names = self.family.text_encoders
        lengths = [self._value(name, "max_position_embeddings") for name in names]
        if conditioning == "direct":
            rows = lengths[-1] + (T5_ROWS if self.family.t5 else 0)  # the states of T5 are rows below the CLIPs'
            states = EmbeddingSpace("cross_attention", self.states_width, rows)
            pooled = self.pooled_width
            return (states,) if pooled is None else (states, EmbeddingSpace("pooled", pooled, rows))
        widths = [self._value(name, "hidden_size") for name in names]
        clips = tuple(map(EmbeddingSpace, self.family.spaces, widths, lengths))
        if self.family.t5 is None or not self.uses_t5(conditioning):
            return clips
        return (*clips, EmbeddingSpace("t5", self._value(self.family.t5, "d_model"), T5_ROWS))

    def variant(self, component: str) -> str | None:
        """`fp16` where a component's weights lie in files of that variant alone; None where there are plain ones."""
        files = [path.name for path in (self.folder / component).glob("*") if path.suffix in (".safetensors", ".bin")]
        weights = [name for name in files if name.startswith(_WEIGHTS)]
        return "fp16" if weights and all(".fp16" in name for name in weights) else None

    def check(self, settings: DecoderSettings) -> None:
        """Refuse what would load and be wrong, and settings that do not fit.

        Raises:
            ValueError: the first of them; names the file's key or the setting, its value, and the fix.
        """
        self._check_scheduler()
        self._check_latents()
        self.check_conditioning(settings)
        check_decoder_resolution(settings.resolution, self.resolution_multiple)

    def _check_scheduler(self) -> None:
        name, place = self.scheduler.get("_class_name"), f"{self.folder}/scheduler"
        flow = self.scheduler.get("use_flow_sigmas") or str(name).startswith("FlowMatch")
        if self.family.flow and name is not None and not flow:
            raise CheckpointError(f"{place} is a {name}: {self.pipeline} is trained by rectified flow, FlowMatch*")
        if self.family.flow:
            if self.scheduler.get("use_dynamic_shifting"):
                raise CheckpointError(f"{place}: use_dynamic_shifting=true, and this family has a fixed shift")
            return
        # A file without `_class_name` is not judged: it is none of diffusers', and its betas may well be right.
        if flow or (name is not None and name not in _DDPM_SCHEDULERS):
            raise CheckpointError(
                f"{place} is a {name}, of another objective than DDPM's: give a model that predicts noise or velocity"
            )
        prediction = self.scheduler.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise CheckpointError(f"{place}: prediction_type={prediction!r}: only epsilon and v_prediction work")

    def _check_latents(self) -> None:
        denoiser, vae = self.config(self.family.denoiser), self.config("vae")
        place = f"{self.folder}/{self.family.denoiser}"
        channels = vae.get("latent_channels", 4)
        # All of these load without complaint: a wider first layer, an embedding that is left out, latents of another
        # scale. What comes out is noise, or images that are subtly wrong.
        for key in ("in_channels", "out_channels"):
            if denoiser.get(key) not in (None, channels):
                raise CheckpointError(
                    f"{place}: {key}={denoiser[key]}, and the VAE has {channels} channels: an inpainting or editing "
                    "model, or parts of two models; give a text-to-image model"
                )
        if denoiser.get("time_cond_proj_dim") is not None:
            raise CheckpointError(
                f"{place}: time_cond_proj_dim={denoiser['time_cond_proj_dim']}, a model distilled to take guidance as "
                "an input (LCM): give the one that it was distilled from"
            )
        if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
            raise CheckpointError(
                f"{self.folder}/vae: latents_mean and latents_std are set: latents normalised by channel are not "
                "supported, only scaling_factor and shift_factor are"
            )
        for key, wanted in (("addition_embed_type", self.family.added_embedding), ("class_embed_type", None)):
            if denoiser.get(key) != wanted:
                raise CheckpointError(f"{place}: {key}={denoiser.get(key)!r}; a {self.pipeline} has {wanted!r}")

    def check_conditioning(self, settings: DecoderSettings) -> None:
        """The part of `check` that concerns the text encoders alone: what stage 2 loads."""
        if settings.conditioning == "clip" and self.family.t5 is None:
            raise ValueError("conditioning=clip leaves T5 out, and this decoder has none: give text_encoder or direct")
        if settings.t5_dtype is not None and not self.uses_t5(settings.conditioning):
            raise ValueError(
                f"t5_dtype={settings.t5_dtype}: no T5 with this decoder and conditioning={settings.conditioning}; "
                "set null"
            )
        if settings.conditioning == "direct":
            _ = self.has_t5  # refuses a T5 that is named and missing: it encodes the empty prompt
        width = sum(self._value(name, "hidden_size") for name in self.family.text_encoders)
        # Rectified flow's CLIPs are padded to T5's width; elsewhere their widths are the states'.
        if not self.family.flow and width != self.states_width:
            raise CheckpointError(
                f"the text encoders' width {width} is not the denoiser's {self.family.states_width} "
                f"{self.states_width}: {self.folder} mixes two models"
            )
        if self.uses_t5(settings.conditioning) and self._value(str(self.family.t5), "d_model") != self.states_width:
            raise CheckpointError(
                f"T5's width is not the denoiser's {self.states_width}: {self.folder} mixes two models"
            )


def read_layout(folder: Path) -> DecoderLayout:
    """Read a decoder's folder.

    Raises:
        CheckpointError: it is none, or of a family that is not here; says what it is.
    """
    if (folder / "model_index.json").is_file():
        index = read_json(folder / "model_index.json")
        pipeline = str(index.get("_class_name"))
    elif (folder / "unet").is_dir() and not (folder / "text_encoder_2").exists():
        index, pipeline = {}, "StableDiffusionPipeline"  # single components without an index
    else:
        config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
        what = f"is a model of type {config['model_type']}" if "model_type" in config else "has no model_index.json"
        raise CheckpointError(f"{folder} {what}: give a diffusers folder of a text-to-image model")
    if pipeline not in FAMILIES:
        raise CheckpointError(f"{folder} is a {pipeline}; the decoders here are {', '.join(FAMILIES)}")
    return DecoderLayout(folder, pipeline, index)


def check_inference_steps(option: str, steps: int, layout: DecoderLayout) -> None:
    """Check that a schedule has as many steps as are to be taken.

    Raises:
        ValueError: it has not.
    """
    most = layout.num_train_timesteps
    if steps > most:
        raise ValueError(f"{option}={steps} is more than the {most} steps of {layout.folder}: give at most {most}")
