"""Write tiny components with random weights in the hub's layouts, for tests and dry runs.

OUT/stable-diffusion (diffusers), OUT/florence2 (Florence-2), OUT/qwen (Qwen2); tokenizers trained on the captions
where they are given. The sizes are for decoder_resolution=64 and encoder_resolution=128, as in configs/*_tiny.yaml.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from vlv.cli.entry import BAD_CALL, stop

DECODERS = (
    "stable-diffusion",
    "stable-diffusion-1.5",
    "stable-diffusion-xl",
    "stable-diffusion-3.5",
    "stable-diffusion-3.5-large",
)


def main(arguments: list[str] | None = None) -> None:
    """Read the call and write the three folders."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_tiny_components",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that gets the three component folders")
    parser.add_argument("--captions", type=Path, help="captions.json, .jsonl or .txt (a caption a line)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default 0)")
    parser.add_argument("--prediction-type", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument(
        "--decoder", choices=DECODERS, default=DECODERS[0], help="the diffusion decoder, in a folder of that name"
    )
    parser.add_argument("--florence2-layout", choices=("native", "original"), default="native")
    options = parser.parse_args(arguments)
    if options.prediction_type != "epsilon" and options.decoder != DECODERS[0]:
        stop(f"--prediction-type {options.prediction_type} is for --decoder {DECODERS[0]} alone", BAD_CALL)
    try:
        sentences = read_sentences(options.captions)
        options.out.mkdir(parents=True, exist_ok=True)
        write(options, sentences)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def write(options: argparse.Namespace, sentences: list[str]) -> None:
    """Write the components and print what was written."""
    import torch

    from vlv.cli.entry import quiet_libraries
    from vlv.testing import components as tiny
    from vlv.testing import decoders as tiny_decoders

    quiet_libraries()
    torch.manual_seed(options.seed)
    write_decoder = {
        "stable-diffusion": partial(tiny.write_stable_diffusion, prediction_type=options.prediction_type),
        "stable-diffusion-1.5": partial(tiny.write_stable_diffusion, first=True),
        "stable-diffusion-xl": tiny_decoders.write_stable_diffusion_xl,
        "stable-diffusion-3.5": tiny_decoders.write_stable_diffusion_3,
        "stable-diffusion-3.5-large": partial(tiny_decoders.write_stable_diffusion_3, dual_attention=False),
    }[options.decoder]
    counts = write_decoder(options.out / options.decoder, sentences)
    counts |= tiny.write_florence2(options.out / tiny.FLORENCE2, sentences, options.florence2_layout)
    counts |= tiny.write_qwen(options.out / tiny.QWEN, sentences)
    for name in (options.decoder, tiny.FLORENCE2, tiny.QWEN):
        print(options.out / name)
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


def read_sentences(path: Path | None) -> list[str]:
    """The captions that the tokenizers are trained on, and the task prompt.

    Raises:
        ValueError: a file that is missing, or holds no caption.
    """
    from vlv.data.caption_file import read_captions
    from vlv.testing.components import SENTENCES

    if path is None:
        return list(SENTENCES)
    if not path.is_file():
        raise ValueError(f"--captions {path} is not there: give captions.json, .jsonl or .txt")
    if path.suffix == ".txt":
        captions = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    else:
        captions = list(read_captions(str(path)).values())
    if not captions:
        raise ValueError(f"--captions {path} holds no caption")
    return [*captions, SENTENCES[-1]]


if __name__ == "__main__":
    main(sys.argv[1:])
