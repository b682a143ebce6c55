"""Exact measures of captions and pictures of the small world, against the scenes that they should show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from vlv.shapes.faults import facts_of, is_true, name_faults
from vlv.shapes.picture_oracle import read_pictures
from vlv.shapes.scene import Item, Scene
from vlv.shapes.text_oracle import Description, Statement, as_description

# (size, texture, colour, shape, (row, column)); None where a caption leaves it open, but a texture is then solid.
Fact = tuple[str | None, str, str | None, str, tuple[int, int] | None]


@dataclass(frozen=True)
class Score:
    """One caption or picture, counted against its scene.

    right, stated, true: shapes stated rightly (size, texture, colour, shape and place), shapes stated, those that the
        world does not have among them, shapes of the scene.
    background: the scene's background is stated, and no other.
    clean: see `Description`.
    false_relations, relations: stated relations that do not hold, and all stated ones.
    miscounts: another number of shapes is stated than the scene has.
    distances: in cells, of each stated place from the true one, where the rest of the statement is right.
    faults: all that is wrong, by name: "size: large as small", "unparsed: 'near the edge'".
    """

    right: int
    stated: int
    true: int
    background: bool
    clean: bool
    false_relations: int
    relations: int
    miscounts: bool
    distances: tuple[float, ...]
    faults: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Nothing is wrong, and nothing is left out but relations and number, which need not be stated."""
        return not self.faults

    @property
    def unparsed(self) -> bool:
        """Whether a caption has words that the reader cannot account for."""
        return any(fault.startswith("unparsed") for fault in self.faults)


@dataclass(frozen=True)
class SceneMeasures:
    """How well a set of captions, or of pictures, agrees with its scenes.

    precision, recall, f1: over stated shapes, right where size, texture, colour, shape and place all are.
    exact: share of scenes without any fault.
    hallucinations: stated shapes that are not there as stated, per scene.
    spatial_error: distance, in cells, of shapes whose other attributes are right from where they stand.
    background: share of right backgrounds.
    clean: share of pictures of which a scene, the right one or another, explains all; 1 of captions.
    false_relations: share of stated relations that do not hold; 0 where none is stated.
    unparsed: share of captions with words that the reader cannot account for.
    count: scenes.
    """

    precision: float
    recall: float
    f1: float
    exact: float
    hallucinations: float
    spatial_error: float
    background: float
    clean: float
    false_relations: float
    unparsed: float
    count: int

    def to_dict(self) -> dict[str, float]:
        """The JSON form."""
        return asdict(self)


def measure_pictures(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> SceneMeasures:
    """Measures of pictures, one a scene, as the oracle reads them.

    Raises:
        ValueError: not one picture for each scene, or no scene.
    """
    return summarise(score_descriptions(describe_pictures(pictures), scenes))


def describe_pictures(pictures: Sequence[Image.Image]) -> list[Description]:
    """What the oracle reads in pictures. They state neither relations nor a number of shapes."""
    return [as_description(reading.scene, reading.clean) for reading in read_pictures(pictures)]


def score_descriptions(descriptions: Sequence[Description], scenes: Sequence[Scene]) -> list[Score]:
    """Scores of what captions state, one a scene."""
    if len(descriptions) != len(scenes) or not scenes:
        raise ValueError(
            f"{len(descriptions)} captions or pictures for {len(scenes)} scenes: one for each, at least one"
        )
    return [_score(description, scene) for description, scene in zip(descriptions, scenes, strict=True)]


def summarise(scores: Sequence[Score]) -> SceneMeasures:
    """Measures of a set. Shapes weigh alike, so a scene of four counts four times as much in f1 as one of one."""
    right, stated = sum(score.right for score in scores), sum(score.stated for score in scores)
    true, count = sum(score.true for score in scores), len(scores)
    distances = [distance for score in scores for distance in score.distances]
    return SceneMeasures(
        precision=right / max(1, stated),
        recall=right / true,
        f1=2 * right / max(1, stated + true),
        exact=sum(score.exact for score in scores) / count,
        hallucinations=(stated - right) / count,
        spatial_error=sum(distances) / len(distances) if distances else math.nan,
        background=sum(score.background for score in scores) / count,
        clean=sum(score.clean for score in scores) / count,
        false_relations=sum(score.false_relations for score in scores)
        / max(1, sum(score.relations for score in scores)),
        unparsed=sum(score.unparsed for score in scores) / count,
        count=count,
    )


def confidence_intervals(scores: Sequence[Score], resamples: int = 2_000) -> dict[str, tuple[float, float]]:
    """95 % intervals of `f1`, `exact` and `clean`, by the percentile bootstrap over scenes (Efron, 1979).

    Scenes are resampled whole, because the shapes of one caption or picture are right or wrong together. Where every
    scene is right, so is every resample, and the interval is [1, 1]: it then gives no bound on the true share.
    """
    picked = np.random.default_rng(0).integers(len(scores), size=(resamples, len(scores)))  # fixed: the same scores
    right, stated, true, exact, clean = (  # give the same interval
        np.array([getattr(score, name) for score in scores], dtype=float)[picked].sum(1)
        for name in ("right", "stated", "true", "exact", "clean")
    )
    values = {
        "f1": 2 * right / np.maximum(1, stated + true),
        "exact": exact / len(scores),
        "clean": clean / len(scores),
    }
    low_and_high = {name: np.quantile(value, (0.025, 0.975)) for name, value in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in low_and_high.items()}


def facts(items: Iterable[Item]) -> list[Fact]:
    """What is to be stated of each shape."""
    return [(item.size, item.texture, item.color, item.shape, (item.row, item.column)) for item in items]


def faults(read: Scene, scene: Scene) -> list[str]:
    """What is wrong of a read scene: "hallucinated: 'large red star'", "left out: ...", "color: blue as cyan"."""
    return name_faults(as_description(read), scene)


def wrong_facts(description: Description, scene: Scene) -> list[Fact]:
    """The stated shapes that are not there as stated; a shape that is stated twice is wrong once."""
    return [_fact(statement) for statement in facts_of(description.statements, scene)[0]]


def _score(description: Description, scene: Scene) -> Score:
    stated = description.statements
    return Score(
        right=len(stated) - len(facts_of(stated, scene)[0]),
        stated=len(stated),
        true=len(scene.items),
        background=set(description.grounds) == {scene.background},
        clean=description.clean,
        false_relations=sum(not is_true(relation, scene) for relation in description.relations),
        relations=len(description.relations),
        miscounts=any(count != len(scene.items) for count in description.counts),
        distances=tuple(_distances(map(_fact, stated), scene)),
        faults=tuple(name_faults(description, scene)),
    )


def _fact(statement: Statement) -> Fact:
    return (statement.size, statement.texture, statement.color, statement.shape, statement.place)


def _distances(stated: Iterable[Fact], scene: Scene) -> Iterator[float]:
    """Distances, in cells, of the stated places from the true ones, where the rest of a fact is right."""
    # One place for each: no two items of a scene have the same colour and shape.
    places = {fact[:4]: fact[4] for fact in facts(scene.items)}
    for fact in stated:
        true, place = places.get(fact[:4]), fact[4]
        if true is not None and place is not None:
            yield math.dist(true, place)
