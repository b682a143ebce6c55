"""Write a checkpoint of this project back in the published layout, as one state dict, or a captioner as a whole.

SOURCE is a stage-1 folder or a captioner's folder; DESTINATION a .safetensors, .bin or .pt file. Where DESTINATION is a
folder, a captioner is written into it that needs no other one: its LoRA merged, its bases' weights in it.
vlv export gguf SOURCE DESTINATION writes a captioner for llama.cpp instead; vlv export gguf --help has its settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlv.checkpoints.origin import find_adapter_bases
from vlv.checkpoints.schema import kind_of
from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.config.groups import AdapterBasesConfig
from vlv.settings import ConfigError, option


@dataclass(frozen=True)
class ExportConfig(AdapterBasesConfig):
    """What is written, and where."""

    source: str = option("", "folder of a stage-1 model or of a captioner")
    destination: str = option("", "the .safetensors, .bin or .pt file that is written, or a new folder")

    def __post_init__(self) -> None:
        if not self.source or not self.destination:
            raise ConfigError("vlv export needs a checkpoint and a file: vlv export SOURCE DESTINATION")


def main(arguments: list[str]) -> None:
    """Read the call and write the file, or hand the call on."""
    if arguments[:1] == ["gguf"]:
        from vlv.cli import export_gguf

        export_gguf.main(arguments[1:])
        return
    config = parse(ExportConfig, Call("vlv export", __doc__ or "", ("source", "destination")), arguments)
    try:
        # JSON alone: a base that has gone shows before the libraries are loaded.
        if kind_of(Path(config.source)) == "stage2":
            find_adapter_bases(Path(config.source), config.bases())
    except ValueError as error:
        stop(str(error), BAD_CALL)
    load_libraries()
    if not Path(config.destination).suffix:
        _write_whole(config)
        return
    from vlv.published.export import export_checkpoint

    try:
        export = export_checkpoint(Path(config.source), Path(config.destination), **config.bases())
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    print(f"written: {config.destination} ({export.stage}, {export.count:,} tensors)")
    print("lm_head of Florence-2 is a copy of its embedding, to which it is tied; final_logits_bias is zeros")
    for line in export.left_out:
        print(f"not in the layout: {line}")


def _write_whole(config: ExportConfig) -> None:
    """Write a captioner's folder anew, with all that it needs and its LoRA merged."""
    from vlv.atomic import whole_folder
    from vlv.models.captioner import VLVCaptioner

    target = Path(config.destination)
    try:
        if target.exists():
            raise ConfigError(f"{target} is there already: give a new folder")
        captioner = VLVCaptioner.from_pretrained(config.source, **config.bases())
        with whole_folder(target) as folder:
            captioner.save_pretrained(folder)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    print(f"written: {target} (a captioner that needs no other folder)")
