"""The reader of descriptions, on the world's own wording and on captions that people wrote and scored by reading."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from vlv.shapes.describe import annotate, describe, describe_halves, inventory
from vlv.shapes.faults import name_faults
from vlv.shapes.measures import score_descriptions
from vlv.shapes.places import CELLS
from vlv.shapes.scene import SPLITS, Item, Scene, make_halves, make_scene
from vlv.shapes.text_oracle import Statement, as_description, read_description, read_halves

CAPTIONS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "assets" / "shapes" / "captions.jsonl").read_text().splitlines()
]
SCENE = Scene((Item(0, 0, "large", "solid", "red", "circle"), Item(2, 1, "small", "solid", "blue", "star")), "white")
TRUE = "Two shapes on a white background. A large red circle is at the top left. At the bottom is a small blue star. "
FEW, ALL = 1_500, 10_000
COUNTS = pytest.mark.parametrize("count", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])


def scenes(count):
    """As many of each split."""
    return [make_scene(split, number) for split in SPLITS for number in range(count // len(SPLITS))]


def scene_of(text):
    """ "white: large red circle, top left; small striped blue star, bottom"."""
    ground, _, shapes = text.partition(": ")
    items = []
    for shape in shapes.split("; "):
        words, _, place = shape.partition(", ")
        size, *texture, color, name = words.split()
        items.append(Item(*CELLS[place], size, texture[0] if texture else "solid", color, name))
    return Scene(tuple(sorted(items)), ground)


def faults(text, scene=SCENE):
    return name_faults(read_description(text), scene)


@COUNTS
@pytest.mark.parametrize("wording", [describe, annotate, inventory])
def test_every_word_of_the_world_s_own_wording_is_read(wording, count):
    for number, scene in enumerate(scenes(count)):
        description = read_description(wording(scene, number))
        assert description.scene == scene
        assert name_faults(description, scene) == []
        assert bool(description.relations) == (wording is not inventory and len(scene.items) > 1)
        assert description.counts == (() if wording is inventory else (len(scene.items),))


@COUNTS
def test_each_half_of_a_description_of_two_scenes_is_read_by_itself(count):
    for number in range(count):
        pair = make_halves(number)
        read = read_halves(describe_halves(*pair, number))
        assert tuple(description.scene for description in read) == pair
        assert [name_faults(*one) for one in zip(read, pair, strict=True)] == [[], []]


def test_a_text_that_is_not_of_two_halves_is_one_fault():
    for text in ("", TRUE, "On the left half, " + TRUE, "On the left half, one star. On the left half, one moon."):
        assert [read.faults for read in read_halves(text)] == [("half: not one description for each",)] * 2


@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda caption: caption["kind"])
def test_captions_score_as_a_reader_scores_them(caption):
    score = score_descriptions([read_description(caption["text"])], [scene_of(caption["scene"])])[0]
    assert sorted(score.faults) == sorted(caption["faults"])
    wanted = tuple(caption[name] for name in ("right", "stated", "true", "exact"))
    assert (score.right, score.stated, score.true, score.exact) == wanted
    assert not score.exact or (score.right == score.stated == score.true and score.background)


def test_half_of_the_captions_are_wrong_in_one_way():
    once = sum(len(caption["faults"]) == 1 for caption in CAPTIONS)
    assert len(CAPTIONS) >= 150
    assert once >= len(CAPTIONS) / 2
    named = {fault.partition(":")[0] for caption in CAPTIONS for fault in caption["faults"]}
    assert len(named) >= 20, sorted(named)


@pytest.mark.parametrize("wording", [describe, annotate, inventory])
def test_an_unknown_word_anywhere_is_a_fault(wording):
    stream = random.Random(0)
    for number, scene in enumerate(scenes(400)):
        words = wording(scene, number).split(" ")
        words.insert(stream.randrange(len(words) + 1), stream.choice(("zebra", "quickly", "fuzzy", "near")))
        assert faults(" ".join(words), scene), " ".join(words)


@pytest.mark.parametrize("wording", [describe, annotate, inventory])
def test_a_caption_of_another_scene_is_wrong(wording):
    all_scenes = scenes(400)
    for number, scene in enumerate(all_scenes):
        other = all_scenes[number - 1]
        assert (scene == other) == (not faults(wording(other, number), scene))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("The red circle is above the blue star and to the left of it.", []),
        (
            "The red circle is above and to the right of the blue star.",
            ["false relation: 'red circle right of blue star'"],
        ),
        ("The large circle is not below the star.", []),
        ("No star is above the circle.", []),
        ("The circle is not small but large.", []),
        ("The circle is not large but small.", ["false negation: 'large red circle'", "contradiction: large as small"]),
        ("One is green.", ["hallucinated: 'green shape'"]),
        ("There is no background.", ["unparsed: 'no'"]),
        ("The star is white.", ["contradiction: blue as white"]),
        ("A picture of three shapes.", ["second count: three"]),
        ("The circle is left of the star and the moon.", ["false relation: 'red circle left of moon'"]),
        ("No circle is above the star.", ["false relation: 'circle not above blue star'"]),
        ("Neither a moon nor a heart is in the picture.", []),
        ("The small shape is blue. Both shapes are solid.", []),
        ("Both shapes are small.", ["contradiction: large as small"]),
        ("The center is empty.", []),
        ("The top left corner is empty.", ["false negation: 'top left'"]),
        ("They are on a white background.", []),
        ("A star.", ["hallucinated: 'star'"]),
        ("And.", ["unparsed: 'and'"]),
        ("holds a moon", ["unparsed: 'holds'", "hallucinated: 'moon'"]),
        ("<b>", ["unparsed: '< b >'"]),
        ("The star is at the bottom at the bottom.", ["unparsed: 'at the bottom'"]),
    ],
)
def test_what_is_said_behind_a_true_caption(text, wrong):
    assert sorted(faults(TRUE + text)) == sorted(wrong)


@pytest.mark.parametrize("word", ["large", "red", "circle", "top left", "bottom", "star", "small"])
def test_an_attribute_that_is_left_out_or_said_twice_is_a_fault(word):
    assert faults(TRUE) == []
    assert faults(TRUE.replace(f" {word}", "", 1))
    assert faults(TRUE.replace(f" {word}", f" {word} {word}", 1))


def test_the_parser_takes_what_is_said_and_no_more():
    read = read_description("A red circle is somewhere. On the left is a big striped blue star, I think. A dog.")
    circle, star, dog = read.statements
    assert circle == Statement(None, "solid", "red", "circle", None)
    assert star == Statement("large", "striped", "blue", "star", (1, 0))
    assert dog == Statement(None, "solid", None, "dog", None)
    assert (read.grounds, read.counts, read.scene) == ((), (), None)
    assert read.faults == ("unparsed: 'somewhere'", "unparsed: 'i think'")


def test_a_picture_is_read_in_the_same_form():
    assert as_description(SCENE).scene == SCENE
    assert name_faults(as_description(SCENE), SCENE) == []


def test_the_kinds_of_faults_are_many():
    kinds = Counter(caption["kind"] for caption in CAPTIONS if caption["faults"])
    assert kinds["hallucination"] >= 10
    assert kinds["unparsed"] >= 10
    assert kinds["relation"] >= 10
