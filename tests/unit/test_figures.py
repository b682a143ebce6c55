"""Figures of the pages against kept results: the repository's agree, and a change on either side is found."""

import json

import pytest
import yaml

from scripts.check_figures import KEPT, LIST, ROOT, FigureError, check, fill, main

PAGE = (
    "Caption F1 is **0.992** after 7 min 38 s\nand the loss ends at 0.250, from 0.500; 4% of 1,000. The rate is 0.125."
)
TEXTS = [
    "F1 is **{results.full.caption_f1:.3f}** after {quickstart.seconds:duration}",
    "ends at {logs.run.val/loss:.3f}, from {logs.run.val/loss@10:.3f};",
    "{results.full.both:.0%} of {results.full.count:,}",
    "The rate is 0.125.",
]


@pytest.fixture
def write(tmp_path):
    """Write a project of one page and its kept results; returns what does not agree."""

    def write(page=PAGE, texts=TEXTS, f1=0.9922):
        root = tmp_path / "project"
        (root / KEPT).mkdir(parents=True)
        (root / "page.md").write_text(page)
        (root / LIST).write_text(yaml.safe_dump({"page.md": texts}))
        full = {"caption_f1": f1, "both": 0.04, "count": 1000}
        (root / KEPT / "results.json").write_text(json.dumps({"full": full}))
        (root / KEPT / "quickstart.json").write_text('{"seconds": 458.4}')
        (root / KEPT / "run.log").write_text("step 10/20  val/loss 0.5  val/f1 1\nstep 20/20  val/loss 0.25\nsaved\n")
        return list(check(root))

    return write


def test_every_figure_of_the_pages_agrees_with_its_kept_result(capsys):
    main()
    assert "every figure agrees" in capsys.readouterr().out
    assert {"README.md", "docs/embedded_world.md", "docs/train.md"} >= set(yaml.safe_load((ROOT / LIST).read_text()))


def test_a_page_that_agrees(write):
    assert write() == []


def test_a_changed_result_is_found(write):
    changed, uncovered = write(f1=0.9876)
    assert changed == (
        "page.md has 'F1 is **0.992** after 7 min 38 s', and the kept results give 'F1 is **0.988** after 7 min 38 s'"
    )
    assert "0.992 in" in uncovered


def test_a_changed_page_is_found(write):
    problems = write(PAGE.replace("4%", "5%"))
    assert "has '5% of 1,000'" in problems[0]
    assert "give '4% of 1,000'" in problems[0]


def test_a_figure_that_the_list_does_not_cover_is_found(write):
    (problem,) = write(PAGE + " And 0.777 by the way.")
    assert "0.777 in" in problem
    assert "is in no text of docs/figures.yaml" in problem


def test_a_text_that_its_page_lost_is_found(write):
    (problem,) = write(texts=[*TEXTS, "The rate was 0.125."])
    assert "page.md has no text like 'The rate was 0.125.'" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{results.full.nothing:.3f}", "{results.full.nothing} names nothing that is kept"),
        ("{logs.run.val/loss@15:.3f}", "{logs.run.val/loss@15} names nothing that is kept"),
        ("{elsewhere.full:.3f}", "{elsewhere.full} names nothing that is kept"),
        ("{results.full.caption_f1:d}", "{results.full.caption_f1:d}: 0.9922 cannot be written as 'd'"),
    ],
)
def test_braces_that_name_nothing_are_refused(write, tmp_path, text, message):
    write()
    with pytest.raises(FigureError) as refused:
        fill(tmp_path / "project", text)
    assert message in str(refused.value)


def test_a_figure_with_more_digits_is_another_one(write):
    problems = write(PAGE.replace("0.125", "0.1257"), [*TEXTS[:-1], "The rate is 0.125"])
    assert "has no text like 'The rate is 0.125'" in problems[0]


def test_a_whole_kept_file_can_be_named(write, tmp_path):
    write()
    (tmp_path / "project" / KEPT / "table.md").write_text("| a | 0.992 |\n")
    assert fill(tmp_path / "project", "{file.table.md}") == "| a | 0.992 |"
