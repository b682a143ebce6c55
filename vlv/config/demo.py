"""The settings of `vlv demo`."""

from __future__ import annotations

from dataclasses import dataclass

from vlv.config.groups import AdapterBasesConfig, Precision, Scheduler, model_option
from vlv.settings import option, require


@dataclass(frozen=True)
class DemoConfig(AdapterBasesConfig):
    """What the page shows, where it is served, and what its controls start from."""

    ckpt_dir: str = option("", "the captioner's folder; empty is the small world's, which is shipped", path="local")
    stage1_path: str | None = option(
        None, "the stage-1 model that the captioner came from, where it has moved", path="local"
    )
    stable_diffusion_model_path: str | None = model_option(
        None,
        "the frozen diffusion decoder that draws pictures; null is where training found it",
        path="source",
        former=("decoder", "stable_diffusion"),
    )
    examples: str | None = option(None, "folder or glob of example pictures; null is the shipped ones", path="local")
    host: str = option("127.0.0.1", "address that is listened on; 0.0.0.0 is every one of this machine")
    port: int = option(7860, "TCP port")
    precision: Precision = option(
        "auto",
        "number format of the computation; auto is bf16 on a GPU, and on a CPU where it is measured to pay",
    )
    guidance_scale: float = option(2.0, "classifier-free guidance that the page starts with; 1 switches it off")
    # Half of what `vlv reconstruct` takes: in the small world pictures are as good, and somebody waits for them.
    num_inference_steps: int = option(25, "denoising steps that the page starts with")
    seed: int = option(42, "seed that the page starts with")
    scheduler: Scheduler = option(
        "auto", "sampler, built from the model's own config; auto is ddpm, and euler for rectified flow"
    )
    max_image_mb: int = option(20, "size of an image file, at most, in MB")
    max_image_mib: int = option(512, "size of a decoded image, at most, in MiB")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        require(self.guidance_scale >= 0, "guidance_scale", self.guidance_scale, "give 0 or more")
        for key in ("num_inference_steps", "port", "max_image_mb", "max_image_mib"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.seed >= 0, "seed", self.seed, "give 0 or more")
