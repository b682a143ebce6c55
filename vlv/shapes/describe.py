"""Scenes become English: full descriptions, and the short answers that the tiny Florence-2 is trained on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from vlv.shapes.scene import MAX_OBJECTS, Item, Scene

NUMBERS = ("no", "one", "two", "three", "four")
SIZE_WORDS = {"small": ("small", "tiny"), "large": ("large", "big")}
TEXTURE_WORDS = {"solid": ("", "solid"), "striped": ("striped",), "outlined": ("outlined", "hollow")}
# Phrases for each place (row, column). The oracle reads the longest that fits.
PLACES = {
    (0, 0): ("in the top left corner", "at the top left"),
    (0, 1): ("at the top", "at the top center"),
    (0, 2): ("in the top right corner", "at the top right"),
    (1, 0): ("on the left", "at the middle left"),
    (1, 1): ("in the center", "in the middle"),
    (1, 2): ("on the right", "at the middle right"),
    (2, 0): ("in the bottom left corner", "at the bottom left"),
    (2, 1): ("at the bottom", "at the bottom center"),
    (2, 2): ("in the bottom right corner", "at the bottom right"),
}
RELATIONS = ("left of", "right of", "above", "below")


def describe(scene: Scene, seed: int) -> str:
    """A full description: background, every item with size, texture, colour, shape and place, and true relations.

    What is solid need not be called so.

    Args:
        seed: fixes order and phrasing, which are as mixed as in texts from many hands.
    """
    stream = random.Random(f"phrasing {seed}")
    sentences = _statements(scene, stream)
    for _ in range(_relations_of(scene.items)):
        first, second = stream.sample(scene.items, 2)
        sentences.append(_relation(first, stream.choice(_true_relations(first, second)), second))
    return " ".join(dict.fromkeys(sentences))  # the same relation may have come up twice


def describe_halves(left: Scene, right: Scene, seed: int) -> str:
    """A description of the picture of two scenes, `render_halves`: each half in turn, named as such or not.

    Where the halves are not named, two descriptions follow each other, and the places tell which half each is of.
    """
    stream = random.Random(f"phrasing {seed}")
    halves = [("left", left), ("right", right)]
    stream.shuffle(halves)
    named, texts = stream.random() < 0.5, []
    for side, scene in halves:
        text = " ".join(_statements(scene, stream))
        texts.append(f"On the {side} half, {text[0].lower()}{text[1:]}" if named else text)
    return " ".join(texts)


def _statements(scene: Scene, stream: random.Random) -> list[str]:
    return [
        _opening(scene, stream),
        *(_sentence(item, stream) for item in stream.sample(scene.items, len(scene.items))),
    ]


def annotate(scene: Scene, seed: int) -> str:
    """The same in one steady form: row by row, the place first, always the same word for the same thing.

    So are the captions that one large captioner writes: what differs between them is what the pictures show.
    """
    sentences = [_opening(scene, random.Random(f"annotation {seed}"))]
    sentences += map(_placed, scene.items)
    for first, second in list(pairwise(scene.items))[: _relations_of(scene.items)]:
        sentences.append(_relation(first, _true_relations(first, second)[0], second))
    return " ".join(sentences)


def inventory(scene: Scene, seed: int) -> str:
    """Background, and what stands where, places and attributes in any order; no number and no relation.

    No colour stands right before its shape, as it does in a caption: what follows there can then be predicted from the
    place alone, not from what followed the same colour before.
    """
    stream = random.Random(f"inventory {seed}")
    items = stream.sample(scene.items, len(scene.items))
    return " ".join([f"A {scene.background} background.", *(_listed(item, stream) for item in items)])


def _listed(item: Item, stream: random.Random) -> str:
    words = [item.size] if item.texture == "solid" else [item.size, item.texture]
    stream.shuffle(words)
    all_words = stream.sample([*words, item.color], len(words) + 1)
    phrases = (
        f"{_a(item.shape)}, {_joined(all_words)}",
        f"something {item.color}, {_a(' '.join(words))} {item.shape}",
        f"something {_joined(all_words)}, {_a(item.shape)}",
    )
    return f"{PLACES[item.row, item.column][0].capitalize()} is {stream.choice(phrases)}."


def _a(words: str) -> str:
    return f"an {words}" if words.startswith(("a", "e", "o", "hour")) else f"a {words}"


def _joined(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _placed(item: Item) -> str:
    texture = "" if item.texture == "solid" else f"{item.texture} "
    return f"{PLACES[item.row, item.column][0].capitalize()} is a {item.size} {texture}{item.color} {item.shape}."


def brief(scene: Scene) -> str:
    """The shapes and their number alone: no colour, size or place."""
    counts = Counter(item.shape for item in scene.items)
    parts = [f"{NUMBERS[count]} {_plural(shape, count)}" for shape, count in sorted(counts.items())]
    return " and ".join(parts) + "."


def locate(scene: Scene, shape: str) -> str:
    """Where a shape stands, each place in turn; "nowhere" where there is none."""
    places = [PLACES[item.row, item.column][0] for item in scene.items if item.shape == shape]
    return (" and ".join(places) or "nowhere") + "."


def region(scene: Scene, row: int, column: int) -> str:
    """Size, texture and colour of what stands in a place, and never its shape; "nothing" where it is empty."""
    for item in scene.items:
        if (item.row, item.column) == (row, column):
            return f"something {_joined([item.size, item.texture, item.color])}."
    return "nothing."


def _opening(scene: Scene, stream: random.Random) -> str:
    count = len(scene.items)
    shapes = f"{NUMBERS[count]} {_plural('shape', count)}"
    ground = f"{scene.background} background"
    verb = "is" if count == 1 else "are"
    return stream.choice(
        (f"{shapes.capitalize()} on a {ground}.", f"There {verb} {shapes} on a {ground}.", f"A {ground} with {shapes}.")
    )


def _sentence(item: Item, stream: random.Random) -> str:
    words = (stream.choice(SIZE_WORDS[item.size]), stream.choice(TEXTURE_WORDS[item.texture]), item.color, item.shape)
    name = f"a {' '.join(filter(None, words))}"
    place = stream.choice(PLACES[item.row, item.column])
    return stream.choice(
        (
            f"{name.capitalize()} is {place}.",
            f"{place.capitalize()} is {name}.",
            f"There is {name} {place}.",
        )
    )


def _relations_of(items: Sequence[Item]) -> int:
    """How many relations are stated: fewer where there is more else to describe, so that no text outgrows 77 tokens."""
    return min(len(items) - 1, 2 if len(items) < MAX_OBJECTS else 1)


def _relation(first: Item, relation: str, second: Item) -> str:
    return f"The {first.color} {first.shape} is {relation} the {second.color} {second.shape}."


def _true_relations(first: Item, second: Item) -> list[str]:
    return [relation for relation in RELATIONS if holds(first, relation, second)]


def holds(first: Item, relation: str, second: Item) -> bool:
    """Whether `first` stands so to `second`, by their cells."""
    return {
        "left of": first.column < second.column,
        "right of": first.column > second.column,
        "above": first.row < second.row,
        "below": first.row > second.row,
    }[relation]


def _plural(noun: str, count: int) -> str:
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith("s") else "s")
