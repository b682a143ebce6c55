"""Scenes become English: full descriptions, and the short answers that the tiny Florence-2 is trained on."""

from __future__ import annotations

import random
from collections import Counter

from vlv.shapes.scene import Item, Scene

NUMBERS = ("no", "one", "two", "three", "four")
SIZE_WORDS = {"small": ("small", "tiny"), "large": ("large", "big")}
# Ways to say each place (row, column). The oracle reads the longest that fits.
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


def describe(scene: Scene, seed: int, in_reading_order: bool = False) -> str:
    """A full description: background, every item with size, colour, shape and place, and true relations.

    Args:
        seed: fixes the phrasing.
        in_reading_order: items go row by row, as one annotator would keep to; otherwise in any order.
    """
    stream = random.Random(f"phrasing {seed}")
    sentences = [_opening(scene, stream)]
    items = list(scene.items)
    if not in_reading_order:
        stream.shuffle(items)
    sentences += [_sentence(item, stream) for item in items]
    # Fewer where there is more else to say, so that no description outgrows a text encoder's 77 positions.
    for _ in range(min(len(items) - 1, 2 if len(items) < 4 else 1)):
        sentences.append(_relation(items, stream))
    return " ".join(dict.fromkeys(sentences))


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
    """Size and colour of what stands in a place, and never its shape; "nothing" where it is empty."""
    for item in scene.items:
        if (item.row, item.column) == (row, column):
            return f"something {item.size} and {item.color}."
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
    name = f"a {stream.choice(SIZE_WORDS[item.size])} {item.color} {item.shape}"
    place = stream.choice(PLACES[item.row, item.column])
    return stream.choice(
        (
            f"{name.capitalize()} is {place}.",
            f"{place.capitalize()} is {name}.",
            f"There is {name} {place}.",
        )
    )


def _relation(items: list[Item], stream: random.Random) -> str:
    first, second = stream.sample(items, 2)
    true = [relation for relation in RELATIONS if holds(first, relation, second)]
    return f"The {first.color} {first.shape} is {stream.choice(true)} the {second.color} {second.shape}."


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
