"""Exact measures of captions and pictures of the embedded world, against the scenes that they should show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from PIL import Image

from vlv.shapes.oracle import Description, read_pictures
from vlv.shapes.scene import Item, Scene

# (size, colour, shape, (row, column)); None where a caption leaves it open.
Fact = tuple[str | None, str | None, str, tuple[int, int] | None]


@dataclass(frozen=True)
class SceneMeasures:
    """How well a set of captions, or of pictures, tells its scenes.

    precision, recall, f1: over stated shapes, right where size, colour, shape and place all are.
    exact: share of scenes told without any fault: shapes, background, and no number or relation that does not hold.
    hallucinations: stated shapes that are not there as stated, per scene.
    spatial_error: distance, in cells, of shapes whose size, colour and shape are right from where they stand.
    background: share of right backgrounds.
    false_relations: share of stated relations that do not hold; 0 where none is stated.
    count: scenes.
    """

    precision: float
    recall: float
    f1: float
    exact: float
    hallucinations: float
    spatial_error: float
    background: float
    false_relations: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """The JSON form."""
        return asdict(self)


def measure_pictures(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> SceneMeasures:
    """Measures of pictures, one a scene, as the oracle reads them."""
    _check(len(pictures), len(scenes))
    return measure_scenes([reading.scene for reading in read_pictures(pictures)], scenes)


def measure_scenes(told: Sequence[Scene], scenes: Sequence[Scene]) -> SceneMeasures:
    """Measures of what the oracle has read in pictures, one a scene."""
    _check(len(told), len(scenes))
    return _measure([_Told(facts(scene.items), scene.background) for scene in told], scenes)


def measure_descriptions(descriptions: Sequence[Description], scenes: Sequence[Scene]) -> SceneMeasures:
    """Measures of what captions say, one a scene."""
    _check(len(descriptions), len(scenes))
    told = []
    for description, scene in zip(descriptions, scenes, strict=True):
        said: list[Fact] = [(s.size, s.color, s.shape, s.place) for s in description.statements]
        false, stated = description.false_relations(scene), len(description.relations)
        told.append(_Told(said, description.background, false, stated, description.miscounts(scene)))
    return _measure(told, scenes)


def facts(items: Iterable[Item]) -> list[Fact]:
    """What is to be told of each shape."""
    return [(item.size, item.color, item.shape, (item.row, item.column)) for item in items]


def wrong_facts(description: Description, scene: Scene) -> list[Fact]:
    """The stated shapes that are not there as stated."""
    rest = facts(scene.items)
    wrong: list[Fact] = []
    for said in ((s.size, s.color, s.shape, s.place) for s in description.statements):
        if said in rest:
            rest.remove(said)
        else:
            wrong.append(said)
    return wrong


def faults(told: Scene, scene: Scene) -> list[str]:
    """What is wrong of a told scene, place by place: "added", "missing", or "color: blue as cyan, on black"."""
    true, stated = ({(item.row, item.column): item for item in one.items} for one in (scene, told))
    found = ["missing"] * len(true.keys() - stated.keys()) + ["added"] * len(stated.keys() - true.keys())
    for place in sorted(true.keys() & stated.keys()):
        for name in ("size", "color", "shape"):
            right, wrong = getattr(true[place], name), getattr(stated[place], name)
            if right != wrong:
                found.append(f"{name}: {right} as {wrong}, on {scene.background}")
    if told.background != scene.background:
        found.append(f"background: {scene.background} as {told.background}")
    return found


def _check(told: int, scenes: int) -> None:
    if told != scenes or not scenes:
        raise ValueError(f"{told} captions or pictures for {scenes} scenes: one for each, at least one")


@dataclass(frozen=True)
class _Told:
    """What one caption or picture tells."""

    facts: list[Fact]
    background: str | None
    false_relations: int = 0
    relations: int = 0
    miscounts: bool = False


def _measure(told: Sequence[_Told], scenes: Sequence[Scene]) -> SceneMeasures:
    right = stated = true = exact = grounds = false = relations = 0
    distances: list[float] = []
    for one, scene in zip(told, scenes, strict=True):
        rest, said = facts(scene.items), one.facts
        hits = 0
        for fact in said:
            if fact in rest:
                rest.remove(fact)
                hits += 1
        distances += _distances(said, scene)
        right, stated, true = right + hits, stated + len(said), true + len(scene.items)
        right_ground = one.background == scene.background
        grounds += right_ground
        false, relations = false + one.false_relations, relations + one.relations
        faultless = hits == len(said) == len(scene.items) and not one.false_relations and not one.miscounts
        exact += faultless and right_ground
    count = len(scenes)
    return SceneMeasures(
        precision=right / max(1, stated),
        recall=right / true,
        f1=2 * right / max(1, stated + true),
        exact=exact / count,
        hallucinations=(stated - right) / count,
        spatial_error=sum(distances) / len(distances) if distances else math.nan,
        background=grounds / count,
        false_relations=false / max(1, relations),
        count=count,
    )


def _distances(said: list[Fact], scene: Scene) -> list[float]:
    """Distances, in cells, of the stated places from the true ones, where the rest of a fact is right."""
    places = {fact[:3]: fact[3] for fact in facts(scene.items)}
    found = []
    for fact in said:
        true, stated = places.get(fact[:3]), fact[3]
        if true is not None and stated is not None:
            found.append(math.dist(true, stated))
    return found
