"""Write a captioner for llama.cpp: its language model as a stock GGUF file, the rest as safetensors beside it.

SOURCE is a captioner's folder or hub id; DESTINATION a folder, which `vlv caption` then takes as `ckpt_dir`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.atomic import require_new
from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, require_packages, stop
from vlv.config.groups import AdapterBasesConfig
from vlv.settings import ConfigError, option


@dataclass(frozen=True)
class ExportGGUFConfig(AdapterBasesConfig):
    """What is written, where, and in which number format."""

    source: str = option("", "a captioner's folder, or its hub id")
    destination: str = option("", "the folder that is written")
    format: Literal["f16", "q8_0", "q4_k_m"] = option("f16", "number format of the language model's matrices")

    def __post_init__(self) -> None:
        if not self.source or not self.destination:
            raise ConfigError("vlv export gguf needs a captioner and a folder: vlv export gguf SOURCE DESTINATION")


def main(arguments: list[str]) -> None:
    """Read the call and write the folder."""
    config = parse(ExportGGUFConfig, Call("vlv export gguf", __doc__ or "", ("source", "destination")), arguments)
    # An f16 file is written without llama.cpp, so that a machine that cannot compile it can write for others.
    needed = ("gguf", *(() if config.format == "f16" else ("llama_cpp",)))
    require_packages(f"vlv export gguf format={config.format}", "gguf", *needed)
    try:
        require_new(Path(config.destination))
    except ValueError as error:
        stop(str(error), BAD_CALL)
    load_libraries()
    from vlv.llamacpp.export import export_gguf
    from vlv.models import VLVCaptioner

    try:
        captioner = VLVCaptioner.from_pretrained(
            config.source,
            **config.bases(),
            dtype="auto",  # the rest keeps the captioner's number format
        )
        exported = export_gguf(captioner, Path(config.destination), config.format)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    formats = ", ".join(f"{count} {name}" for name, count in exported.formats.items())
    print(f"written: {config.destination}")
    print(f"language model: {exported.language_model / 1e6:,.1f} MB, tensors by format: {formats}")
    print(f"the rest: {exported.rest / 1e6:,.1f} MB")
    print(f"to caption: vlv caption IMAGES ckpt_dir={config.destination} num_beams=1")
