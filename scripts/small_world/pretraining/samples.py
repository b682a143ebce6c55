"""Scenes as training samples: what each part of the family is shown of scene `number`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scripts.small_world.pretraining.architecture import CAPTION_TASK, LOCATE_TASK, REGION_TASK, TEXT_LENGTH
from vlv.losses import IGNORED
from vlv.shapes.describe import annotate, brief, describe, describe_halves, inventory, locate, region
from vlv.shapes.render import render, render_halves
from vlv.shapes.scene import (
    BACKGROUNDS,
    COLORS,
    GRID,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Split,
    make_component_scene,
    make_halves,
    make_scene,
    recolor,
)

Sample = dict[str, Any]
EMPTY_SHARE = 0.1  # of prompts, so that guidance has something to guide away from
_MEAN, _STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def scene_of(number: int, split: Split | None, most: int = MAX_OBJECTS) -> Scene:
    """A scene of the components' own training (None), or of a split to measure on."""
    return make_component_scene(number, most) if split is None else make_scene(split, number)


def picture_sample(number: int, split: Split | None = None, most: int = MAX_OBJECTS) -> Sample:
    """Pixels uint8 [3, R, R] with the labels of every place."""
    scene = scene_of(number, split, most)
    return {"pixels": to_pixels(render(scene, number)), **labels(scene)}


def crowded_sample(number: int) -> Sample:
    """Like `picture_sample`, of up to nine shapes, more to learn in each picture; each fourth is of two scenes."""
    if not is_of_halves(number):
        return picture_sample(number, most=GRID**2)
    left, right = make_halves(number)
    sample = labels(Scene(left.items + right.items, left.background))
    return {"pixels": to_pixels(render_halves(left, right, number)), **sample}


def tower_sample(number: int, split: Split | None = None, most: int = MAX_OBJECTS) -> Sample:
    """Normalised pixels fp32 [3, R, R] with the labels of every place."""
    sample = picture_sample(number, split, most)
    return {"pixel_values": normalize(sample.pop("pixels")), **sample}


def to_pixels(picture: Image.Image) -> Tensor:
    """uint8 [3, R, R]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


def normalize(pixels: Tensor) -> Tensor:
    """As Florence-2's processor does: fp32, ImageNet's mean and deviation."""
    return (pixels.float() / 255 - _MEAN[:, None, None]) / _STD[:, None, None]


def labels(scene: Scene) -> Sample:
    """Class numbers of each place, [9], 0 where it is empty; background is a scalar."""
    values = {name: torch.zeros(GRID * GRID, dtype=torch.long) for name in ("size", "texture", "color", "shape")}
    for item in scene.items:
        cell = item.row * GRID + item.column
        values["size"][cell] = SIZES.index(item.size) + 1
        values["texture"][cell] = TEXTURES.index(item.texture) + 1
        values["color"][cell] = list(COLORS).index(item.color) + 1
        values["shape"][cell] = SHAPES.index(item.shape) + 1
    return {**values, "background": torch.tensor(list(BACKGROUNDS).index(scene.background))}


class TextSamples:
    """CLIP token ids [77] of a description, with the labels."""

    def __init__(self, tokenizer: Any, split: Split | None = None) -> None:
        self.tokenizer = tokenizer
        self.split: Split | None = split

    def __call__(self, number: int) -> Sample:
        scene = scene_of(number, self.split)
        return {"ids": clip_ids(self.tokenizer, describe(scene, number)), **labels(scene)}


def is_of_halves(number: int) -> bool:
    """Whether a picture of the components' training is of two scenes, a half each."""
    return number % 4 == 3


def latent_picture(number: int, recolored: bool = False) -> Image.Image:
    """The picture of `LatentSamples`; the same shapes in other colours where `recolored`."""
    scenes = make_halves(number) if is_of_halves(number) else (make_component_scene(number),)
    if recolored:
        scenes = tuple(recolor(scene, number) for scene in scenes)
    return render_halves(scenes[0], scenes[1], number) if len(scenes) == 2 else render(scenes[0], number)


class LatentSamples:
    """Cached latents of a picture, and the ids of one of its descriptions, another each time it comes round.

    `drift` [C, h, w] leads from the latents to those of the same picture in other colours; 0 with the empty prompt.
    `foreground` [1, h, w] is 1 where a place with a shape lies, 0 elsewhere.
    """

    def __init__(self, tokenizer: Any, cache: Path) -> None:
        self.tokenizer = tokenizer
        self.cache = load_file(cache)

    def __call__(self, number: int) -> Sample:
        place = number % len(self.cache["mean"])
        empty = random.Random(f"empty {number}").random() < EMPTY_SHARE
        if is_of_halves(place):
            left, right = make_halves(place)
            text, scene = describe_halves(left, right, number), Scene(left.items + right.items, left.background)
        else:
            scene = make_component_scene(place)
            text = describe(scene, number)
        return {
            "ids": clip_ids(self.tokenizer, "" if empty else text),
            "latent_mean": self.cache["mean"][place],
            "latent_std": self.cache["std"][place],
            "foreground": foreground(scene, *self.cache["mean"].shape[-2:]),
            "drift": (0 if empty else 1) * (self.cache["recolored"][place] - self.cache["mean"][place]),
        }


def foreground(scene: Scene, height: int, width: int) -> Tensor:
    """Mask fp32 [1, height, width] of the places that hold a shape."""
    mask = torch.zeros(1, height, width)
    for item in scene.items:
        rows = slice(item.row * height // GRID, -(-(item.row + 1) * height // GRID))
        columns = slice(item.column * width // GRID, -(-(item.column + 1) * width // GRID))
        mask[:, rows, columns] = 1
    return mask


class TaskSamples:
    """One of Florence-2's tasks on a picture: a brief caption, where a shape is, or what a place looks like."""

    def __init__(self, tokenizer: Any, split: Split | None = None) -> None:
        self.tokenizer = tokenizer
        self.split: Split | None = split

    def __call__(self, number: int) -> Sample:
        scene = scene_of(number, self.split)
        prompt, answer = task(scene, number)
        return {
            "pixel_values": normalize(to_pixels(render(scene, number))),
            "prompt_ids": torch.tensor(self.tokenizer(prompt)["input_ids"]),
            "labels": torch.tensor(self.tokenizer(answer)["input_ids"]),
        }


def task(scene: Scene, number: int) -> tuple[str, str]:
    """Prompt and answer of one of the three tasks, picked by `number`."""
    stream = random.Random(f"task {number}")
    kind = stream.random()
    if kind < 0.2:
        return CAPTION_TASK, brief(scene)
    item = stream.choice(scene.items)
    if kind < 0.6:
        shape = item.shape if stream.random() < 0.8 else stream.choice(SHAPES)
        return LOCATE_TASK.format(shape), locate(scene, shape)
    cell = (item.row, item.column) if stream.random() < 0.8 else divmod(stream.randrange(GRID * GRID), GRID)
    return REGION_TASK.format(cell[0] + 1, cell[1] + 1), region(scene, *cell)


class DocumentSamples:
    """Qwen2's token ids of one scene described twice, each with its end: an inventory in any order, then a caption.

    A large language model has learned from its texts to look up what stands earlier in a text. On
    single texts a tiny one never would, and stage 2 would have to teach it to look at its prefix at all.
    """

    def __init__(self, tokenizer: Any, split: Split | None = None) -> None:
        self.tokenizer = tokenizer
        self.split: Split | None = split

    def __call__(self, number: int) -> Sample:
        scene = scene_of(number, self.split)
        tokens = [self.tokenizer(text)["input_ids"] for text in (inventory(scene, number), annotate(scene, number))]
        ids = torch.tensor([token for part in tokens for token in [*part, self.tokenizer.eos_token_id]])
        return {"ids": ids, "labels": ids.clone()}


def clip_ids(tokenizer: Any, text: str) -> Tensor:
    """Token ids [77], padded as Stable Diffusion's pipeline does."""
    return torch.tensor(tokenizer(text, padding="max_length", max_length=TEXT_LENGTH)["input_ids"])


class SceneDataset(Dataset):
    """Samples by their number in the endless order of training scenes."""

    def __init__(self, sample: Callable[[int], Sample]) -> None:
        self.sample = sample

    def __getitem__(self, number: int) -> Sample:
        return {"numbers": number, **self.sample(number)}


def scene_loader(sample: Callable[[int], Sample], batch_size: int, first: int) -> DataLoader:
    """Batches of consecutive scenes from number `first` on, without end."""
    batches: Any = _batches(batch_size, first)
    return DataLoader(SceneDataset(sample), batch_sampler=batches, collate_fn=collate)


def _batches(batch_size: int, first: int) -> Iterator[list[int]]:
    while True:
        yield list(range(first, first + batch_size))
        first += batch_size


def collate(samples: list[Sample]) -> Sample:
    """Stack; token ids of different lengths are padded on the right, prompts with a mask beside them."""
    batch: Sample = {"numbers": [sample["numbers"] for sample in samples]}
    for key in samples[0].keys() - {"numbers"}:
        values = [sample[key] for sample in samples]
        if len({len(value) if value.ndim else 0 for value in values}) == 1:
            batch[key] = torch.stack(values)
        else:
            padding = IGNORED if key == "labels" else 1
            batch[key] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=padding)
    if "prompt_ids" in batch:
        lengths = torch.tensor([len(sample["prompt_ids"]) for sample in samples])
        batch["prompt_mask"] = torch.arange(batch["prompt_ids"].shape[1]) < lengths[:, None]
    return batch
