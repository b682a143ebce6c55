"""Write tiny components with random weights in the hub's layouts, for tests and dry runs.

OUT/stable-diffusion (diffusers), OUT/florence2 (Florence-2), OUT/qwen (Qwen2); tokenizers trained on the captions
where they are given. The sizes are for decoder_resolution=64 and encoder_resolution=128, as in configs/*_tiny.yaml.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import ConfigError, option, require

DecoderName = Literal[
    "stable-diffusion",
    "stable-diffusion-1.5",
    "stable-diffusion-xl",
    "stable-diffusion-3.5",
    "stable-diffusion-3.5-large",
]


@dataclass(frozen=True)
class TinyConfig:
    """What is written, and where."""

    out: str = option("", "folder that gets the three component folders")
    captions: str | None = option(None, "captions.json, .jsonl or .txt (a caption a line), for the tokenizers")
    seed: int = option(0, "seed of the random weights")
    decoder: DecoderName = option("stable-diffusion", "the diffusion decoder, in a folder of that name")
    prediction_type: Literal["epsilon", "v_prediction"] = option("epsilon", "what decoder=stable-diffusion predicts")
    florence2_layout: Literal["native", "original"] = option("native", "transformers' own, or its remote code's")

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("a folder is needed: python -m scripts.make_tiny_components OUT")
        fits = self.prediction_type == "epsilon" or self.decoder == "stable-diffusion"
        require(fits, "prediction_type", self.prediction_type, "it is for decoder=stable-diffusion alone")


def main(arguments: list[str]) -> None:
    """Read the call and write the three folders."""
    call = Call("python -m scripts.make_tiny_components", __doc__ or "", positional=("out",))
    config = parse(TinyConfig, call, arguments)
    try:
        sentences = read_sentences(Path(config.captions) if config.captions is not None else None)
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write(config, sentences)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def write(config: TinyConfig, sentences: list[str]) -> None:
    """Write the components and print what was written."""
    import torch

    from vlv.cli.entry import load_libraries
    from vlv.testing import components as tiny
    from vlv.testing import decoders as tiny_decoders

    load_libraries()
    out = Path(config.out)
    torch.manual_seed(config.seed)
    write_decoder = {
        "stable-diffusion": partial(tiny.write_stable_diffusion, prediction_type=config.prediction_type),
        "stable-diffusion-1.5": partial(tiny.write_stable_diffusion, first=True),
        "stable-diffusion-xl": tiny_decoders.write_stable_diffusion_xl,
        "stable-diffusion-3.5": tiny_decoders.write_stable_diffusion_3,
        "stable-diffusion-3.5-large": partial(tiny_decoders.write_stable_diffusion_3, dual_attention=False),
    }[config.decoder]
    counts = write_decoder(out / config.decoder, sentences)
    counts |= tiny.write_florence2(out / tiny.FLORENCE2, sentences, config.florence2_layout)
    counts |= tiny.write_qwen(out / tiny.QWEN, sentences)
    for name in (config.decoder, tiny.FLORENCE2, tiny.QWEN):
        print(out / name)
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
        raise ValueError(f"captions={path} is not there: give captions.json, .jsonl or .txt")
    if path.suffix == ".txt":
        captions = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    else:
        captions = list(read_captions(str(path)).values())
    if not captions:
        raise ValueError(f"captions={path} holds no caption")
    return [*captions, SENTENCES[-1]]


if __name__ == "__main__":
    main(sys.argv[1:])
