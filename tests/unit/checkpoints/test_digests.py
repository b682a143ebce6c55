"""A checkpoint of which any file was cut, flipped or lost is named, and the one before it is taken."""

import pytest
from accelerate import Accelerator

from tests.unit.training.test_trainer import run
from vlv.checkpoints.digests import damage
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.resume import find_checkpoint, list_checkpoints


def flip(path):
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


FILES = ["model.safetensors", "optimizer.safetensors", "trainer_state.json", "average.safetensors"]


@pytest.fixture
def checkpoints(tmp_path):
    run(tmp_path, ema_decay=0.9)
    folder = tmp_path / "checkpoints"
    assert [path.name[-1] for path in list_checkpoints(folder)] == ["3", "6"]
    assert [damage(path) for path in list_checkpoints(folder)] == [None, None]
    return folder


@pytest.mark.parametrize("harm", [flip, cut])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_taken(checkpoints, name, harm):
    newest = checkpoints / "step_00000006"
    harm(newest / name)
    said = []
    assert find_checkpoint("latest", checkpoints, whole=True, report=said.append).name == "step_00000003"
    assert len(said) == 1
    assert str(newest / name) in said[0]
    with pytest.raises(CheckpointError, match=f"{name} is"):
        find_checkpoint(str(newest), checkpoints, whole=True)


def test_a_lost_file_is_noticed_without_reading_the_others(checkpoints):
    (checkpoints / "step_00000006" / "optimizer.safetensors").unlink()
    assert find_checkpoint("latest", checkpoints).name == "step_00000003"


def test_without_a_whole_one_a_run_does_not_start_anew_in_silence(checkpoints):
    for path in list_checkpoints(checkpoints):
        flip(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"step_00000003.*sha256 is another, and no good checkpoint is before it"):
        find_checkpoint("latest", checkpoints, whole=True)


def test_every_digit_of_the_state_counts(checkpoints):
    path = checkpoints / "step_00000006" / "trainer_state.json"
    path.write_text(path.read_text().replace('"samples": 24', '"samples": 25'))
    assert "trainer_state.json is damaged" in damage(path.parent, whole=False)


def test_the_resumed_run_is_that_of_the_older_checkpoint(checkpoints):
    Accelerator(cpu=True)
    flip(checkpoints / "step_00000006" / "model.safetensors")
    found = find_checkpoint("latest", checkpoints, whole=True)
    _, trainer = run(checkpoints.parent, resume=str(found), ema_decay=0.9, num_steps=6)
    assert trainer.state.step == 6
    assert damage(checkpoints / "step_00000006") is None
