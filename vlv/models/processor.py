"""The processor of a captioner by transformers' conventions: images and text become token ids and pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers import AddedToken, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

from vlv.checkpoints.identity import CONFIG_NAME, read_json
from vlv.checkpoints.pretrained import load_tokenizer, resolve_checkpoint
from vlv.decoders import build_conditioner
from vlv.models.image_processor import VLVImageProcessor, open_image
from vlv.models.image_token import IMAGE_TOKEN, image_token_id

_FILE = "processor_config.json"
# Only an assistant's text is text to the model: the captioner takes no instructions, and has learned captions alone.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.content is not string -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' or part.type == 'image_url' -%}" + IMAGE_TOKEN + "{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message.role == 'assistant' -%}{%- generation -%}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{{- eos_token -}}{%- endgeneration -%}{%- endif -%}"
    "{%- endfor -%}"
)


class VLVProcessor(ProcessorMixin):
    """Images to `pixel_values`, and text with as many placeholders as an image has rows to `input_ids`.

    A caption follows its image's rows at once. Text that is given after an image is thus the beginning of its caption.
    """

    image_processor: VLVImageProcessor
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        image_processor: VLVImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int = 77,
        chat_template: str | None = None,
    ) -> None:
        """Hold the parts; the tokenizer is copied, and learns the placeholder.

        Args:
            num_image_tokens: rows of an image, `VLVForConditionalGeneration.num_image_tokens`.
            chat_template: another one than CHAT_TEMPLATE.
        """
        # A copy: the captioner's own is saved with it, and keeps its vocabulary.
        tokenizer = deepcopy(tokenizer)
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.num_image_tokens = num_image_tokens
        self.image_token = IMAGE_TOKEN
        self.image_token_id = image_token_id(tokenizer)

    def __call__(  # type: ignore[override]
        self, images: object = None, text: str | Sequence[str] | None = None, **options: Any
    ) -> BatchFeature:
        """Inputs of `forward` and `generate`.

        Args:
            images: one, or a list (or a list of lists) of PIL images, arrays, paths or URLs; N in all.
            text: one or B texts, each with a placeholder for each of its images; one without any has its image in
                front. None is one image each, and nothing after it.
            options: of the tokenizer (`padding`, `return_tensors`, ...), also as `text_kwargs`. Several texts are
                padded on the left, as generation needs, unless `padding_side` is given; no special tokens are added.

        Returns:
            `input_ids` and `attention_mask` [B, S], and with images `pixel_values`, uint8 [N, 3, E, E].

        Raises:
            ValueError: neither images nor text, an image that cannot be read, or other images than placeholders.
        """
        for group in ("text_kwargs", "common_kwargs"):
            options |= options.pop(group, None) or {}
        options.pop("images_kwargs", None)  # an image is read in one way
        pictures = [_as_image(image) for image in _flat(images)]
        if not pictures and not text:
            raise ValueError("nothing to process: give images, or text")
        texts = [IMAGE_TOKEN] * len(pictures) if text is None else [text] if isinstance(text, str) else list(text)
        if pictures and len(texts) == len(pictures):
            texts = [one if IMAGE_TOKEN in one else IMAGE_TOKEN + one for one in texts]
        if (found := sum(one.count(IMAGE_TOKEN) for one in texts)) != len(pictures):
            raise ValueError(
                f"text has {found} placeholders {IMAGE_TOKEN} for {len(pictures)} images: give one for each image"
            )
        rows = IMAGE_TOKEN * self.num_image_tokens
        tokenize = {"add_special_tokens": False, "padding": len(texts) > 1, "padding_side": "left", **options}
        # A sequence that is cut within an image's rows could not be read.
        if tokenize.pop("truncation", None) and pictures:
            tokenize.pop("max_length", None)
        return_tensors = tokenize.pop("return_tensors", None)
        found_ids = self.tokenizer([one.replace(IMAGE_TOKEN, rows) for one in texts], **tokenize)
        data: dict[str, Any] = {name: found_ids[name] for name in ("input_ids", "attention_mask")}
        if pictures:
            data["pixel_values"] = self.image_processor.batch(pictures)["encoder_pixels"]
        return BatchFeature(data, tensor_type=return_tensors)

    @property
    def model_input_names(self) -> list[str]:
        """What `__call__` gives."""
        return ["input_ids", "attention_mask", "pixel_values"]

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **_: Any) -> list[str]:
        """Write the tokenizer, the image processor and the template into a folder, which may be a captioner's.

        Raises:
            ValueError: `push_to_hub`; the captioner's own uploads all of it.
        """
        if push_to_hub:
            raise ValueError("push_to_hub=True is the captioner's: it uploads its processor's files too")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(str(self.chat_template))
        values = {"processor_class": type(self).__name__, "num_image_tokens": self.num_image_tokens}
        (folder / _FILE).write_text(json.dumps(values, indent=2) + "\n")
        return [str(folder / _FILE)]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> VLVProcessor:
        """Read a captioner's folder or hub id, or what `save_pretrained` wrote.

        Raises:
            ValueError: not a captioner's folder; the message names what is missing.
        """
        given = Path(pretrained_model_name_or_path)
        saved = read_json(given / _FILE) if (given / _FILE).is_file() else {}
        template = given / "chat_template.jinja"
        if "num_image_tokens" in saved:
            folder, rows = given, saved["num_image_tokens"]
        else:
            folder = resolve_checkpoint(pretrained_model_name_or_path, "stage2", options)
            config = read_json(folder / CONFIG_NAME)
            with torch.device("meta"):  # what it has weights for is not needed
                conditioner = build_conditioner(config["conditioner"])
            rows = conditioner.num_prefix_tokens(config["encoder_config"].get("num_queries", 77))
        return cls(
            VLVImageProcessor.from_pretrained(folder),
            load_tokenizer(folder, "processor"),
            rows,
            template.read_text() if template.is_file() else None,
        )


def _flat(images: object) -> Iterator[object]:
    """Each image of nested lists, or the one that is given."""
    if isinstance(images, (list, tuple)):
        for part in images:
            yield from _flat(part)
    elif images is not None:
        yield images


def _as_image(image: object) -> Image.Image:
    """A PIL image of a path, a URL (http, https or data), an array or a tensor.

    Raises:
        ValueError: it cannot be read.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return load_image(image)
    if isinstance(image, (str, Path, Image.Image)):
        return open_image(image)
    return to_pil_image(cast("np.ndarray", image))
