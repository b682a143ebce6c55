"""The measures, on cases that can be counted by hand."""

import json
import math

import pytest

from vlv.shapes.describe import describe
from vlv.shapes.measure_files import main
from vlv.shapes.measures import (
    confidence_intervals,
    facts,
    faults,
    measure_pictures,
    score_descriptions,
    summarise,
    wrong_facts,
)
from vlv.shapes.render import render
from vlv.shapes.scene import Item, Scene, make_scene
from vlv.shapes.text_oracle import read_description

SCENE = Scene((Item(0, 0, "large", "solid", "red", "circle"), Item(2, 1, "small", "solid", "blue", "star")), "white")
TRUE = "Two shapes on a white background. A large red circle is at the top left. At the bottom is a small blue star."


def measure_captions(captions, scenes):
    return summarise(score_descriptions([read_description(caption) for caption in captions], scenes))


def test_a_true_caption_is_faultless():
    measures = measure_captions([TRUE], [SCENE])
    assert (measures.f1, measures.exact, measures.hallucinations, measures.spatial_error) == (1, 1, 0, 0)


def test_a_texture_that_is_unstated_is_solid():
    striped = Scene((Item(1, 1, "small", "striped", "teal", "bar"),), "black")
    right, wrong = (f"A small {texture}teal bar is in the center on black." for texture in ("striped ", ""))
    measures = measure_captions([right, wrong], [striped, striped])
    assert (measures.f1, measures.exact) == (0.5, 0.5)


def test_a_wrong_place_costs_precision_recall_and_distance():
    text = TRUE.replace("At the bottom is", "In the top right corner is")
    measures = measure_captions([text], [SCENE])
    assert (measures.precision, measures.recall, measures.f1) == (0.5, 0.5, 0.5)
    assert measures.exact == 0
    assert measures.hallucinations == 1
    assert measures.spatial_error == pytest.approx(math.hypot(2, 1) / 2)  # one of the two stands right
    assert wrong_facts(read_description(text), SCENE) == [("small", "solid", "blue", "star", (0, 2))]


@pytest.mark.parametrize(
    ("text", "precision", "recall", "exact"),
    [
        (TRUE.split(" At the bottom")[0], 1, 0.5, 0),
        (TRUE + " In the center is a big pink cross.", 2 / 3, 1, 0),
        (TRUE + " At the bottom is a small blue star.", 2 / 3, 1, 0),
        (TRUE.replace("white", "black"), 1, 1, 0),
        (TRUE.replace("Two", "Three"), 1, 1, 0),
        (TRUE.replace("Two shapes on a", "A"), 1, 1, 1),
        (TRUE + " The red circle is above the blue star.", 1, 1, 1),
        (TRUE + " The red circle is below the blue star.", 1, 1, 0),
        (TRUE.replace("large red", "large striped red"), 0.5, 0.5, 0),
        (TRUE + " How nice!", 1, 1, 0),
        ("", 0, 0, 0),
    ],
)
def test_what_is_left_out_added_or_wrong(text, precision, recall, exact):
    measures = measure_captions([text], [SCENE])
    assert measures.precision == pytest.approx(precision)
    assert measures.recall == pytest.approx(recall)
    assert measures.exact == exact
    assert math.isnan(measures.spatial_error) == (not text)


def test_pictures_are_measured_through_the_oracle():
    scenes = [make_scene("test", number) for number in range(20)]
    pictures = [render(scene, number) for number, scene in enumerate(scenes)]
    assert measure_pictures(pictures, scenes).exact == 1
    other = measure_pictures(pictures[1:] + pictures[:1], scenes)
    assert other.f1 < 0.3
    assert other.count == 20


def test_intervals_narrow_with_more_scenes_and_resample_whole_scenes():
    scenes = [make_scene("test", number) for number in range(200)]
    # A tenth of the captions is wrong in every shape; were shapes resampled, the interval would be narrower.
    captions = [describe(scenes[n - 1 if n % 10 == 0 else n], n) for n in range(200)]
    scores = score_descriptions([read_description(caption) for caption in captions], scenes)
    measures, intervals = summarise(scores), confidence_intervals(scores)
    for name, value in (("f1", measures.f1), ("exact", measures.exact)):
        low, high = intervals[name]
        assert low < value < high
    # The share of exact captions is binomial: 1.96 standard deviations to each side.
    half = 1.96 * math.sqrt(0.9 * 0.1 / 200)
    assert intervals["exact"] == pytest.approx((0.9 - half, 0.9 + half), abs=0.01)
    few = confidence_intervals(scores[:50])["f1"]
    assert few[1] - few[0] > 1.5 * (intervals["f1"][1] - intervals["f1"][0])
    assert confidence_intervals(scores) == intervals


def test_each_scene_needs_one_caption():
    with pytest.raises(ValueError, match="2 captions or pictures for 1 scenes"):
        measure_captions(["", ""], [SCENE])


def test_facts_are_those_that_descriptions_tell():
    scene = make_scene("test", 1)
    read = {(s.size, s.texture, s.color, s.shape, s.place) for s in read_description(describe(scene, 1)).statements}
    assert read == set(facts(scene.items))


def test_faults_are_named_by_what_was_taken_for_what():
    stated = Scene(
        (Item(0, 0, "small", "solid", "cyan", "circle"), Item(1, 1, "large", "striped", "red", "star")), "black"
    )
    assert faults(stated, SCENE) == [
        "size: large as small",
        "color: red as cyan",
        "hallucinated: 'large striped red star'",
        "left out: 'small blue star'",
        "background: white as black",
    ]
    assert faults(SCENE, SCENE) == []


def test_the_command_names_a_path_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path / "none.json")])
    assert "none.json does not exist: give a captions.json" in capsys.readouterr().err


def test_the_command_counts_faults_of_pictures_and_of_captions(tmp_path, capsys):
    scenes = [make_scene("test", number) for number in range(3)]
    folder, captions = tmp_path / "reconstructed", tmp_path / "captions.json"
    folder.mkdir()
    names = [f"test-{number:08}.png" for number in range(3)]
    for name, scene in zip(names, [scenes[0], scenes[0], scenes[2]], strict=True):
        render(scene, 0).save(folder / name)
    texts = [describe(scenes[0], 0), "A red circle.", describe(scenes[2], 0)]
    captions.write_text(json.dumps(dict(zip(names, texts, strict=True))))
    main([str(folder), "faults=true"])
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split(maxsplit=1)[1] for line in lines if line.startswith(" ")]
    assert sorted(set(faults(scenes[0], scenes[1]))) == sorted(kinds)
    main([str(captions), "faults=true"])
    printed = capsys.readouterr().out
    assert "    1  no background" in printed
    assert "unparsed         0.0000" in printed
    captions.write_text(json.dumps({names[0]: describe(scenes[0], 0) + " It looks nice."}))
    main([str(captions), "faults=true", f"json={tmp_path / 'measures.json'}"])
    assert "    1  unparsed: 'it looks nice'" in capsys.readouterr().out
    assert json.loads((tmp_path / "measures.json").read_text())["unparsed"] == 1
