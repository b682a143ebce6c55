"""Turn a GGUF file into a language model's folder (config, safetensors, tokenizer), which `qwen_model` takes.

GGUF_FILE is a path, or `package:NAME` for the one .gguf file in an installed Python package. Its weights are
dequantised once here, because that takes minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from vlv.atomic import whole_folder
from vlv.cli.entry import BAD_CALL, quiet_libraries, stop


def main(arguments: list[str] | None = None) -> None:
    """Read the call and convert."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.small_world.convert_gguf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="GGUF_FILE")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that is written")
    options = parser.parse_args(arguments)
    quiet_libraries()
    try:
        convert(find_gguf(options.source), options.out)
    except (OSError, ValueError, ImportError) as error:
        stop(next(iter(str(error).splitlines()), f"{options.source}: {type(error).__name__}"), BAD_CALL)


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
