"""The config of a captioner: what it is built from, and where that came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, configuration_utils

from vlv.checkpoints.identity import AUTO_NAME, ENCODER_TYPE, STAGE2_TYPE, JsonObject

# Some programs (CaptionFlow's workers) load a processor by its folder alone, before anything has imported this
# package. With `trust_remote_code=True` transformers then runs this, and the import is all it takes: that module
# registers config, model and processor.
_AUTO_FILE = '''"""Where transformers finds this captioner's classes: in the package vlv, which has to be installed."""

from vlv.models import VLVCaptionerConfig

__all__ = ["VLVCaptionerConfig"]
'''


class VLVCaptionerConfig(PreTrainedConfig):
    """Shape and origin of a captioner.

    Args:
        encoder_config, llm_config: configs of the encoder and of the language model.
        conditioner: what `Conditioner.to_dict` gave.
        max_caption_tokens: captions were cut here in training; the default length of generation.
        eos_token_id, pad_token_id: of the language model's tokenizer.
        origin: the stage-1 model that this one came from, the identities of its components, what
            trained, and whether its own weights generate images.
        image_token_id: of the placeholder that stands for a row of an image in `input_ids`; None in a file that was
            written before it was kept.
        adapter_bases: of an adapter (see `vlv.models.adapter`), the bases in `origin` that hold the rest of its
            weights: any of florence2, decoder, language_model; None of a whole captioner, as each is once loaded.
    """

    model_type = STAGE2_TYPE
    sub_configs = {"encoder_config": AutoConfig, "llm_config": AutoConfig}  # noqa: RUF012  # pyright: ignore
    if hasattr(configuration_utils, "SubConfigSpec"):  # transformers 5.20 and newer, which save less by it
        sub_configs_defaults = {
            "encoder_config": configuration_utils.SubConfigSpec(config_class=AutoConfig, model_type=ENCODER_TYPE),
            "llm_config": configuration_utils.SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
        }

    encoder_config: dict | PreTrainedConfig | None = None
    llm_config: dict | PreTrainedConfig | None = None
    conditioner: JsonObject | None = None
    max_caption_tokens: int = 300
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    origin: JsonObject | None = None
    image_token_id: int | None = None
    adapter_bases: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the configs of their dicts."""
        # By hand: transformers does it from 5.20 on.
        self.encoder_config = _config_of(self.encoder_config, ENCODER_TYPE)
        self.llm_config = _config_of(self.llm_config, "qwen2")
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write config.json and the file that it names for transformers' Auto classes."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / AUTO_NAME).write_text(_AUTO_FILE)
        self.auto_map = {"AutoConfig": f"{Path(AUTO_NAME).stem}.{type(self).__name__}"}
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: object = "AutoConfig") -> None:
        """Nothing: `save_pretrained` writes its own file, where transformers would copy this module."""

    @property
    def text_config(self) -> PreTrainedConfig:
        """The language model's, by the name that tools for image-text models know."""
        assert isinstance(self.llm_config, PreTrainedConfig)
        return self.llm_config

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's: what generation and caches go by."""
        return self.text_config


def _config_of(given: dict | PreTrainedConfig | None, default_type: str) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    values = {"model_type": default_type, **(given or {})}
    return AutoConfig.for_model(**values)
