"""A captioner as a folder for llama.cpp: its language model as a stock GGUF file, and the rest beside it."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.atomic import require_new, whole_folder
from vlv.checkpoints.card import CARD_NAME
from vlv.checkpoints.schema import GGUF_NAME
from vlv.llamacpp.library import llama_cpp
from vlv.llamacpp.writer import require_convertible, write_gguf
from vlv.models.captioner import VLVCaptioner

Format = Literal["f16", "q8_0", "q4_k_m"]
_LANGUAGE_MODEL = "llm."


@dataclass(frozen=True)
class Exported:
    """What was written.

    language_model, rest: bytes of the GGUF file, and of the weights beside it.
    formats: tensors of the GGUF file by their number format, the most frequent first.
    """

    language_model: int
    rest: int
    formats: dict[str, int]


def export_gguf(captioner: VLVCaptioner, folder: Path, number_format: Format) -> Exported:
    """Write a captioner for llama.cpp; the folder appears when all of it is written.

    Args:
        number_format: of the language model's matrices. Where a row is no multiple of a format's block, 32 of q8_0 and
            256 of q4_k_m, llama.cpp takes another format for it.

    Raises:
        ValueError: a language model or tokenizer that has no GGUF form, or a folder that holds something.
    """
    require_new(folder)
    require_convertible(captioner.llm.config)  # before anything is written
    with whole_folder(folder) as out:
        write_gguf(captioner.llm, captioner.tokenizer, out / GGUF_NAME, captioner.eos_token_id)
        if number_format != "f16":
            quantize_gguf(out / GGUF_NAME, number_format)
        state = captioner.state_dict()
        rest = {name: value for name, value in state.items() if not name.startswith(_LANGUAGE_MODEL)}
        captioner.save_pretrained(out, state_dict=rest)
        # After it, as it writes files of these names too.
        _search_greedily(out / "generation_config.json")
        (out / CARD_NAME).write_text(_card(number_format))
        sizes = [path.stat().st_size for path in out.glob("*.safetensors")]
        return Exported((out / GGUF_NAME).stat().st_size, sum(sizes), _formats(out / GGUF_NAME))


def quantize_gguf(path: Path, number_format: str) -> None:
    """Replace an f16 file by llama.cpp's own quantisation of it.

    Args:
        number_format: q8_0 or q4_k_m.

    Raises:
        ValueError: llama.cpp cannot.
    """
    # llama.cpp maps what it reads, so it cannot write into the same file.
    written = path.with_suffix(".quantized")
    api = llama_cpp()
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{number_format.upper()}")
    if code := api.llama_model_quantize(os.fsencode(path), os.fsencode(written), params):
        raise ValueError(f"format={number_format}: llama.cpp cannot quantise this language model (code {code})")
    written.replace(path)


def _formats(path: Path) -> dict[str, int]:
    import gguf  # pyright: ignore[reportMissingImports]  (an extra)

    return dict(Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors).most_common())


def _search_greedily(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "num_beams": 1}, indent=2) + "\n")


def _card(number_format: Format) -> str:
    return (
        "---\nlibrary_name: vlv\npipeline_tag: image-to-text\ntags: [vlv, gguf]\n---\n\n"
        f"# VLV captioner for llama.cpp, {number_format}\n\n"
        f"`{GGUF_NAME}` is the language model, a stock GGUF file. `model.safetensors` has the rest, from the image to "
        "the rows of embeddings that the language model reads in front of its caption.\n\n"
        "```bash\npip install 'vlv[gguf]'\nvlv caption photos ckpt_dir=PATH num_beams=1\n```\n"
    )
