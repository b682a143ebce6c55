"""`vlv chaos` in its short form: real runs of the small world, really killed."""

import json
import subprocess
import sys

import pytest

from tests.integration.conftest import ROOT, one_line


def chaos(folder, *call):
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "vlv",
            "chaos",
            *call,
            f"output_dir={folder / 'chaos'}",
            f"json={folder / 'facts.json'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "call",
    [
        ("stage1", "kills=3", "steps=12"),
        pytest.param(("caption", "kills=2", "images=24"), marks=pytest.mark.slow),
        pytest.param(("stage2", "kills=4", "steps=20"), marks=pytest.mark.slow),
        pytest.param(("stage1", "kills=4", "steps=20", "processes=2"), marks=pytest.mark.slow),
        pytest.param(("stage1", "kills=4", "steps=20", "processes=[1,2]"), marks=pytest.mark.slow),
        pytest.param(("caption", "kills=4", "images=64", "processes=2"), marks=pytest.mark.slow),
        pytest.param(("reconstruct", "kills=4", "images=64"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_killed_runs_come_to_what_an_untouched_one_comes_to(tmp_path, call):
    done = chaos(tmp_path, *call)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert f"kills={facts['kills']}" in call
    assert sum(facts["hit"].values()) == sum(facts["killed"].values()) == facts["kills"]
    assert (facts["lost"], facts["repeated"], facts["left_behind"]) == (0, 0, 0)
    assert all(count > 0 for count in facts["compared"].values())
    if "processes=[1,2]" not in call:
        assert not any(facts["different"].values())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "chaos").mkdir()
    (tmp_path / "chaos" / "thesis").touch()
    done = chaos(tmp_path, "stage1")
    assert done.returncode == 2
    assert "holds something else: give an empty folder" in one_line(done)
    assert (tmp_path / "chaos" / "thesis").exists()


def test_a_call_without_a_job_says_which_there_are(tmp_path):
    done = chaos(tmp_path)
    assert done.returncode == 2
    assert "vlv chaos stage1, stage2, caption or reconstruct" in one_line(done)
