"""The page and the panels: wrong sentences are marked, pictures are labelled."""

import json

import numpy as np

from scripts.small_world.panels import caption_panel, composition_panel
from vlv.shapes.describe import describe
from vlv.shapes.render import RESOLUTION, render
from vlv.shapes.report import (
    Example,
    Report,
    Table,
    has_errors,
    read_curve,
    split_sentences,
    write_report,
)
from vlv.shapes.scene import COLORS, Item, Scene, make_scene

SCENE = Scene((Item(0, 0, "large", "solid", "red", "circle"), Item(2, 1, "small", "solid", "blue", "star")), "white")


def wrong_sentences(caption, scene=SCENE):
    return [sentence for sentence, wrong in split_sentences(caption, scene) if wrong]


def test_only_wrong_sentences_are_marked():
    right = "Two shapes on a white background. A large red circle is at the top left. "
    assert wrong_sentences(right) == []
    assert not has_errors(right, SCENE)
    for wrong in (
        "A small red circle is at the top left.",
        "A large red circle is at the bottom.",
        "The red circle is below the blue star.",
        "A black background with two shapes.",
    ):
        assert wrong_sentences(right + wrong) == [wrong]
        assert "".join(sentence for sentence, _ in split_sentences(right + wrong, SCENE)) == right + wrong
        assert has_errors(right + wrong, SCENE)


def test_a_sentence_is_read_with_those_before_it():
    text = "Two shapes on a white background. A large circle is at the top left. It is red. "
    assert wrong_sentences(text) == []
    assert wrong_sentences(text + "It is small. A small blue star is at the bottom.") == ["It is small. "]
    assert wrong_sentences(text + "A dog barks.") == ["A dog barks."]


def test_true_descriptions_have_no_marks():
    for number in range(200):
        scene = make_scene("test", number)
        assert wrong_sentences(describe(scene, number), scene) == []


def write(folder, caption):
    """A page with one example; returns its text."""
    picture = folder / "a.png"
    render(SCENE, 0).save(picture)
    rows = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 4)] + [{"step": 4, "val/loss": 0.5}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    curve = read_curve("loss", folder, "train/loss")
    assert curve.points == [(1, 1.0), (2, 0.5), (4, 0.25)]
    report = Report(
        title="a & b",
        introduction="what",
        tables=[Table("Measures", ("row", "F1"), [("full", "0.99")], "a note")],
        examples=[Example(SCENE, picture, picture, caption)],
        curves=[curve],
        details=[Table("Details", ("measure", "value"), [("f1", "0.98")])],
    )
    write_report(folder / "report.html", report)
    return (folder / "report.html").read_text()


def test_the_page_holds_tables_pictures_and_curves(tmp_path):
    text = write(tmp_path, "Two shapes on a white background. A large red circle is at the bottom.")
    for part in (
        "a &amp; b",
        "<td>0.99</td>",
        "a note",
        "<td>0.98</td>",
        "data:image/png;base64,",
        "Two shapes on a white background. <mark>A large red circle is at the bottom.</mark>",
        "<figcaption>original</figcaption>",
        "<figcaption>reconstruction</figcaption>",
        "loss: 1 to 0.25",
    ):
        assert part in text
    assert text.count("<img") == 2
    assert "<polyline" in text


def test_captions_cannot_write_html(tmp_path):
    text = write(tmp_path, "<script>alert(1)</script>")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script>" not in text


def test_a_run_without_metrics_has_an_empty_curve(tmp_path):
    assert read_curve("loss", tmp_path, "train/loss").points == []


def test_the_panel_shows_both_pictures_and_paints_wrong_sentences_red(tmp_path):
    def reds(caption):
        panel = np.asarray(caption_panel([Example(SCENE, picture, picture, caption)], columns=1)).astype(int)
        below = panel[side + 48 :]
        return ((below[..., 0] > 150) & (below[..., 1] < 90)).sum(), panel

    side = 3 * RESOLUTION
    picture = tmp_path / "a.png"
    render(SCENE, 0).save(picture)
    right = "A large red circle is at the top left."
    none, panel = reds(right)
    some, _ = reds(right + " A small red circle is at the top left.")
    assert none == 0
    assert some > 20
    # Both pictures, three times as large: as many red pixels of the circle left as right, in whole blocks of nine.
    circle = (abs(panel[: side + 38] - COLORS["red"]).sum(-1) < 10).sum(0)
    assert circle[: side + 18].sum() == circle[side + 18 :].sum() > 300
    assert circle[: side + 18].sum() % 9 == 0


def test_a_fault_of_the_reconstruction_is_named(tmp_path):
    right, wrong = tmp_path / "a.png", tmp_path / "b.png"
    render(SCENE, 0).save(right)
    render(Scene((Item(0, 0, "large", "solid", "cyan", "circle"), SCENE.items[1]), "white"), 0).save(wrong)
    heights = [caption_panel([Example(SCENE, right, shown, "")], columns=1).height for shown in (right, wrong)]
    assert heights[1] > heights[0]  # a line more: "reconstruction: color: red as cyan"


def test_compositions_stand_below_their_originals():
    one, other = Scene(SCENE.items[:1], "white"), Scene(SCENE.items[1:], "white")
    first, second, joined = (render(scene, 0) for scene in (one, other, SCENE))
    both = composition_panel([(one, other)], [first], [second], [joined], [joined], [joined])
    half = composition_panel([(one, other)], [first], [second], [first], [joined], [joined])
    assert both.size == half.size
    reds = [((np.asarray(panel)[..., 0] > 150) & (np.asarray(panel)[..., 1] < 90)).sum() for panel in (both, half)]
    # Of the first alone: the blue star is gone, and "of the first" is written in red.
    assert reds[1] > reds[0]
