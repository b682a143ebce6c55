"""Convert a GGUF file into a language model's folder (config, safetensors, tokenizer), which `qwen_model` takes.

SOURCE is a path, or `package:NAME` for the one .gguf file in an installed Python package. Its weights are
dequantised once here, because that takes minutes.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from vlv.atomic import whole_folder
from vlv.cli.entry import BAD_CALL, Call, load_libraries, parse, stop
from vlv.settings import option, require


@dataclass(frozen=True)
class ConvertConfig:
    """What is converted, and where to."""

    source: str = option("", "a .gguf file, or package:NAME")
    out: str = option("", "folder that is written", path="local")

    def __post_init__(self) -> None:
        require(bool(self.source), "source", self.source, "give a .gguf file, or package:NAME")
        require(bool(self.out), "out", self.out, "name the folder to write")


def main(arguments: list[str] | None = None) -> None:
    """Parse the call and convert."""
    call = Call("python -m scripts.small_world.convert_gguf", __doc__ or "", positional=("source", "out"))
    config = parse(ConvertConfig, call, sys.argv[1:] if arguments is None else arguments)
    load_libraries()
    try:
        convert(find_gguf(config.source), Path(config.out))
    except (OSError, ValueError, ImportError) as error:
        stop(next(iter(str(error).splitlines()), f"{config.source}: {type(error).__name__}"), BAD_CALL)


def find_gguf(source: str) -> Path:
    """The file that `source` means.

    Raises:
        ValueError: no such file or package.
    """
    if not source.startswith("package:"):
        if not Path(source).is_file():
            raise ValueError(f"{source} is not a file: give a .gguf file, or package:NAME")
        return Path(source)
    name = source.removeprefix("package:")
    # Not imported: the package's own dependencies need not be there.
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if len(files) != 1:
        raise ValueError(f"{source} holds {len(files)} .gguf files, one is wanted: is the package installed?")
    return files[0]


def convert(file: Path, out: Path) -> None:
    """Write the model in fp16 and its tokenizer into `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # What was read counts as quantised, and refuses to be cast; a model of the same config does not.
    config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(read.state_dict())
    with whole_folder(out) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"{out}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
