"""Which checkpoint is taken, and what it must agree on."""

import json

import pytest

from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.resume import find_checkpoint, flat_identity, require_same_run


def test_what_has_moved_is_still_the_same():
    here = {"bases": {"decoder": {"source": "/a", "config_sha256": "1"}}, "trained": ["mlp"]}
    there = {"bases": {"decoder": {"source": "/b", "config_sha256": "1"}}, "trained": ["mlp"]}
    other = {"bases": {"decoder": {"source": "/a", "config_sha256": "2"}}, "trained": ["mlp"]}
    assert flat_identity(here) == flat_identity(there) == {"bases.decoder.config_sha256": "1", "trained": ["mlp"]}
    assert flat_identity(here) != flat_identity(other)


def test_find_checkpoint(tmp_path):
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("latest", tmp_path) is None
    with pytest.raises(ValueError, match="is no checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)


IDENTITY = {
    "trained": "all",
    "bases": {"decoder": {"source": "/a", "config_sha256": "1", "weights_fingerprint": "2"}},
}


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"step": 3, "samples": 24, "identity": IDENTITY}))
    return tmp_path


def test_the_same_run_resumes(checkpoint):
    moved = {**IDENTITY, "bases": {"decoder": {**IDENTITY["bases"]["decoder"], "source": "/b"}}}
    assert require_same_run(checkpoint, moved, average=False)["step"] == 3
    assert require_same_run(checkpoint, {"trained": "all"}, average=False, partly=True)["samples"] == 24


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({**IDENTITY, "trained": "bart"}, "trained=all, this run has bart: give the same train"),
        ({"trained": "all"}, "decoder is not the one .* their configs differ; set stable_diffusion_model_path"),
        ({**IDENTITY, "optimizer": "muon"}, "optimizer=adamw, this run has muon: give the same optimizer"),
        ({**IDENTITY, "num_queries": 4}, "num_queries=None, this run has 4: give the same num_queries"),
    ],
)
def test_what_differs_is_named_with_both_values_and_its_option(checkpoint, ours, words):
    with pytest.raises(CheckpointError, match=words):
        require_same_run(checkpoint, ours, average=False)


def test_other_weights_of_a_base_are_named(checkpoint):
    ours = {"bases": {"decoder": {"config_sha256": "1", "weights_fingerprint": "3"}}}
    with pytest.raises(CheckpointError, match=r"decoder is not the one .* their weights differ"):
        require_same_run(checkpoint, ours, average=False, partly=True)


def test_what_a_checkpoint_lacks_is_named(checkpoint):
    with pytest.raises(CheckpointError, match="without an average: set ema_decay=0"):
        require_same_run(checkpoint, IDENTITY, average=True)
    (checkpoint / "trainer_state.json").write_text('{"step": 3}')
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is not complete: it lacks samples, identity"):
        require_same_run(checkpoint, IDENTITY, average=False)
