"""Convert a published VLV checkpoint to this project's format.

SOURCE is recognised by its content: a stage-1 state dict (pytorch_model.bin, .pt, .safetensors), a stage-2 model.pt,
the released captioner's folder, or a Florence-2 folder in its original layout (which becomes a native one). DESTINATION
becomes a folder that ckpt_dir and diffusion_model_path take. Nothing of SOURCE is run: pickles are read as tensors
alone, and one that needs more is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import ConfigError, option

if TYPE_CHECKING:
    from vlv.checkpoints.external_state_dict import ExternalStateDict
    from vlv.published.key_mapping import Stage


@dataclass(frozen=True)
class ImportConfig:
    """What is converted, and the frozen components that it was trained on."""

    source: str = option("", "the published checkpoint: file or folder")
    destination: str = option("", "the folder that is written; it must be empty or absent")
    stable_diffusion: str | None = option(None, "the frozen Stable Diffusion: folder or hub id")
    florence2: str | None = option(None, "Florence-2, for its config and tokenizer: folder or hub id")
    llm: str | None = option(None, "the language model, for its config and tokenizer (stage 2): folder or hub id")
    stage1_only: bool = option(False, "of a captioner, write the stage-1 part alone")
    decoder_resolution: int = option(384, "side in pixels of the square that the diffusion decoder sees")
    encoder_resolution: int = option(768, "side in pixels of the square that the vision encoder sees")
    allow: str = option("", "missing or unexpected weights to accept: NAME[,NAME], patterns as in 'extra.*'")

    def __post_init__(self) -> None:
        if not self.source or not self.destination:
            raise ConfigError("vlv import needs a checkpoint and a folder: vlv import SOURCE DESTINATION")

    def allowed(self) -> list[str]:
        """The names and patterns of `allow`."""
        return [name.strip() for name in self.allow.split(",") if name.strip()]


def main(arguments: list[str]) -> None:
    """Read the call, convert, and print what became of the weights."""
    config = parse(ImportConfig, Call("vlv import", __doc__ or "", ("source", "destination")), arguments)
    try:
        convert(config)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def convert(config: ImportConfig) -> None:
    """Recognise, convert, print.

    Raises:
        ValueError: what cannot be converted, and why.
    """
    from vlv.atomic import require_new, whole_folder
    from vlv.checkpoints.external_state_dict import open_state_dict
    from vlv.published.import_plan import recognise_layout

    destination = Path(config.destination)
    require_new(destination)
    load_libraries()
    source = open_state_dict(Path(config.source))
    layout = recognise_layout(source)
    with whole_folder(destination) as folder:
        if layout == "florence2":
            _convert_florence2(config, folder)
        else:
            _convert_vlv(config, source, layout, folder)
    print(f"written: {destination}")


def _convert_florence2(config: ImportConfig, folder: Path) -> None:
    from vlv.published.bases import import_florence2

    source = Path(config.source)
    if not source.is_dir():
        raise ValueError(f"{source} is Florence-2's weights alone: give its folder, with config and tokenizer")
    print(f"{source}: Florence-2 in its original layout")
    import_florence2(source, folder, config.allowed(), print)


def _convert_vlv(config: ImportConfig, source: ExternalStateDict, stage: Stage, folder: Path) -> None:
    from vlv.checkpoints.card import write_card
    from vlv.published.bases import Bases
    from vlv.published.import_checkpoint import captioners_stage1, import_stage1, import_stage2

    if config.stage1_only and stage == "stage2":
        source, stage = captioners_stage1(source), "stage1"
    if config.florence2 is None or config.stable_diffusion is None or (stage == "stage2" and config.llm is None):
        needed = ("stable_diffusion", "florence2", "llm") if stage == "stage2" else ("stable_diffusion", "florence2")
        absent = [f"{name}=FOLDER" for name in needed if getattr(config, name) is None]
        raise ValueError(f"{config.source} is a {stage} checkpoint; its bases are needed: give {', '.join(absent)}")
    print(f"{config.source}: {stage}, {len(source):,} weights")
    bases = Bases.of(config.florence2, config.stable_diffusion)
    resolutions, allow = (config.decoder_resolution, config.encoder_resolution), config.allowed()
    if stage == "stage1":
        import_stage1(source, folder, bases, resolutions=resolutions, allow=allow, log=print)
    else:
        llm = config.llm or ""
        import_stage2(source, folder, bases, llm, resolutions=resolutions, allow=allow, log=print)
    write_card(folder, imported_from=Path(config.source).name)
