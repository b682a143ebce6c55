"""The page: wrong sentences are marked, pictures lie inside it."""

import json

import numpy as np

from scripts.small_world.panel import draw_panel
from vlv.shapes.describe import describe
from vlv.shapes.render import render
from vlv.shapes.report import Example, Table, mark_errors, read_curve, read_joined_curve, write_report
from vlv.shapes.scene import Item, Scene, make_scene

SCENE = Scene((Item(0, 0, "large", "red", "circle"), Item(2, 1, "small", "blue", "star")), "white")


def test_only_wrong_sentences_are_marked():
    right = "Two shapes on a white background. A large red circle is at the top left. "
    assert mark_errors(right, SCENE) == right
    for wrong in (
        "A small red circle is at the top left.",
        "A large red circle is at the bottom.",
        "The red circle is below the blue star.",
        "A black background with two shapes.",
    ):
        assert mark_errors(right + wrong, SCENE) == right + f"<mark>{wrong}</mark>"


def test_true_descriptions_have_no_marks():
    for number in range(200):
        scene = make_scene("test", number)
        assert "<mark>" not in mark_errors(describe(scene, number), scene)


def test_captions_cannot_write_html():
    assert mark_errors("<script>alert(1)</script>", SCENE) == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_the_page_holds_tables_pictures_and_curves(tmp_path):
    picture = tmp_path / "a.png"
    render(SCENE, 0).save(picture)
    rows = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 4)] + [{"step": 4, "val/loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    curve = read_curve("loss", tmp_path, "train/loss")
    assert curve.points == [(1, 1.0), (2, 0.5), (4, 0.25)]
    page = tmp_path / "report.html"
    example = Example(SCENE, picture, picture, "A large red circle is at the bottom.")
    write_report(page, "a & b", "what", [Table("Measures", ("row", "F1"), [("full", "0.99")])], [example], [curve])
    text = page.read_text()
    for part in ("a &amp; b", "<td>0.99</td>", "data:image/png;base64,", "<mark>A large", "loss: 1 to 0.25"):
        assert part in text
    assert text.count("<img") == 2


def test_a_run_without_metrics_has_an_empty_curve(tmp_path):
    assert read_curve("loss", tmp_path, "train/loss").points == []


def test_runs_that_went_on_from_each_other_are_one_curve(tmp_path):
    for name in ("leg1", "leg2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 5, "train/loss": 2}\n{"step": 9, "train/loss": 1}\n')
    curve = read_joined_curve("loss", [tmp_path / "leg1", tmp_path / "leg2", tmp_path / "none"], "train/loss")
    assert curve.points == [(5, 2), (9, 1), (14, 2), (18, 1)]


def test_the_panel_shows_both_pictures_and_paints_wrong_sentences_red(tmp_path):
    def reds(caption):
        panel = np.asarray(draw_panel([Example(blank, picture, picture, caption)], columns=1)).astype(int)
        below = panel[200:]
        return ((below[..., 0] > 150) & (below[..., 1] < 90)).sum(), panel

    picture, blank = tmp_path / "a.png", SCENE
    render(SCENE, 0).save(picture)
    right = "A large red circle is at the top left."
    none, panel = reds(right)
    some, _ = reds(right + " A small red circle is at the top left.")
    assert none == 0
    assert some > 20
    # Both pictures, at 160 px: as many red pixels of the circle left as right.
    circle = (abs(panel[:190] - (214, 40, 40)).sum(-1) < 10).sum(0)
    assert circle[:172].sum() == circle[172:].sum() > 300
