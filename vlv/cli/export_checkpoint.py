"""Write a checkpoint of this project back in the published layout, as one state dict.

SOURCE is a stage-1 folder or a captioner's folder; DESTINATION a .safetensors, .bin or .pt file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import ConfigError, option


@dataclass(frozen=True)
class ExportConfig:
    """What is written, and where."""

    source: str = option("", "folder of a stage-1 model or of a captioner")
    destination: str = option("", "the .safetensors, .bin or .pt file that is written")
    stable_diffusion: str | None = option(None, "Stable Diffusion of a stage 1 or of an adapter, where it has moved")
    florence2: str | None = option(None, "Florence-2 of a stage 1 or of an adapter, where it has moved")

    def __post_init__(self) -> None:
        if not self.source or not self.destination:
            raise ConfigError("vlv export needs a checkpoint and a file: vlv export SOURCE DESTINATION")


def main(arguments: list[str]) -> None:
    """Read the call and write the file."""
    config = parse(ExportConfig, Call("vlv export", __doc__ or "", ("source", "destination")), arguments)
    load_libraries()
    from vlv.published.export import export_checkpoint

    try:
        export = export_checkpoint(
            Path(config.source), Path(config.destination), config.stable_diffusion, config.florence2
        )
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    print(f"written: {config.destination} ({export.stage}, {export.count:,} tensors)")
    print("lm_head of Florence-2 is a copy of its embedding, to which it is tied; final_logits_bias is zeros")
    for line in export.left_out:
        print(f"not in the layout: {line}")
