"""Which checkpoints stay on disk."""

import json

import pytest

from vlv.checkpoints.retention import Retention

# Validation losses of steps 100, 200, ...; None: ruined.
LOSSES = (0.5, 0.3, None, 0.2, 0.4, 0.2, 0.6, 0.7)


@pytest.fixture
def folder(tmp_path):
    for number, loss in enumerate(LOSSES, 1):
        checkpoint = tmp_path / f"step_{100 * number:08d}"
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text("{}")
        content = {"finite": loss is not None, "val/loss": loss}
        (checkpoint / "validation.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(last=0), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Retention(last=2), [7, 8]),
        (Retention(last=20), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Retention(last=1, every=200), [2, 4, 6, 8]),
        (Retention(last=1, every=300), [6, 8]),  # the ruined one is not kept for good
        (Retention(last=2, best="val/loss"), [4, 7, 8]),
        (Retention(last=1, every=500, best="val/loss"), [4, 5, 8]),
        (Retention(last=1, best="val/unknown"), [8]),
    ],
)
def test_what_stays(folder, retention, kept):
    obsolete = retention.obsolete(folder)
    assert obsolete == sorted(obsolete)
    left = {path.name for path in folder.iterdir()} - {path.name for path in obsolete}
    assert sorted(left) == [f"step_{100 * number:08d}" for number in kept]


def test_a_ruined_checkpoint_pushes_no_good_one_out(folder):
    (folder / "step_00000800" / "validation.json").write_text('{"finite": false, "val/loss": null}')
    assert folder / "step_00000700" not in Retention(last=1).obsolete(folder)
