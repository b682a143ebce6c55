"""Convert a published VLV checkpoint to this project's format.

SRC is recognised by its content: a stage-1 state dict (pytorch_model.bin, .pt, .safetensors), a stage-2 model.pt,
the released captioner's folder, or a Florence-2 folder in its original layout (which becomes a native one). DST
becomes a folder that CKPT_DIR and diffusion_model_path take. Nothing of SRC is run: pickles are read as tensors
alone, and one that needs more is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.cli.entry import BAD_CALL, stop

if TYPE_CHECKING:
    from vlv.checkpoints.external_state_dict import ExternalStateDict
    from vlv.published.key_mapping import Stage


def main(arguments: list[str] | None = None) -> None:
    """Read the call, convert, and print what became of the weights."""
    parser = argparse.ArgumentParser(
        prog="python -m vlv.cli.import_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SRC")
    parser.add_argument("destination", type=Path, metavar="DST")
    parser.add_argument("--stable-diffusion", metavar="P", help="the frozen Stable Diffusion: folder or hub id")
    parser.add_argument("--florence2", metavar="P", help="Florence-2, for its config and tokenizer: folder or hub id")
    parser.add_argument("--llm", metavar="P", help="the language model's config and tokenizer (stage 2)")
    parser.add_argument("--stage1-only", action="store_true", help="of a captioner, write the stage-1 part alone")
    parser.add_argument("--decoder-resolution", type=int, default=384, metavar="N", help="pixels (default 384)")
    parser.add_argument("--encoder-resolution", type=int, default=768, metavar="N", help="pixels (default 768)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="NAME", help="accept a missing or unexpected weight"
    )
    options = parser.parse_args(arguments)
    try:
        convert(options)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def convert(options: argparse.Namespace) -> None:
    """Recognise, convert, print.

    Raises:
        ValueError: what cannot be converted, and why.
    """
    from vlv.atomic import whole_folder
    from vlv.checkpoints.external_state_dict import open_state_dict
    from vlv.cli.entry import quiet_libraries
    from vlv.published.plan import recognise_layout

    if options.destination.exists() and any(options.destination.iterdir()):
        raise ValueError(f"{options.destination} is not empty: name another folder, or empty it first")
    quiet_libraries()
    source = open_state_dict(options.source)
    layout = recognise_layout(source)
    with whole_folder(options.destination) as folder:
        if layout == "florence2":
            _convert_florence2(options, folder)
        else:
            _convert_vlv(options, source, layout, folder)
    print(f"written: {options.destination}")


def _convert_florence2(options: argparse.Namespace, folder: Path) -> None:
    from vlv.published.bases import import_florence2

    if not options.source.is_dir():
        raise ValueError(f"{options.source} is Florence-2's weights alone: give its folder, with config and tokenizer")
    print(f"{options.source}: Florence-2 in its original layout")
    import_florence2(options.source, folder, options.allow, print)


def _convert_vlv(options: argparse.Namespace, source: ExternalStateDict, stage: Stage, folder: Path) -> None:
    from vlv.checkpoints.card import write_card
    from vlv.published.bases import Bases
    from vlv.published.conversion import captioners_stage1, import_stage1, import_stage2

    if options.stage1_only and stage == "stage2":
        source, stage = captioners_stage1(source), "stage1"
    needed = {"--stable-diffusion": options.stable_diffusion, "--florence2": options.florence2}
    if stage == "stage2":
        needed["--llm"] = options.llm
    absent = [name for name, value in needed.items() if value is None]
    if absent:
        raise ValueError(f"{options.source} is a {stage} checkpoint; its bases are needed: give {', '.join(absent)}")
    print(f"{options.source}: {stage}, {len(source):,} weights")
    bases = Bases.of(options.florence2, options.stable_diffusion)
    resolutions = (options.decoder_resolution, options.encoder_resolution)
    if stage == "stage1":
        import_stage1(source, folder, bases, resolutions=resolutions, allow=options.allow, log=print)
    else:
        import_stage2(source, folder, bases, options.llm, resolutions=resolutions, allow=options.allow, log=print)
    write_card(folder, imported_from=options.source.name)


if __name__ == "__main__":
    main(sys.argv[1:])
