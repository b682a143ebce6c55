"""Which checkpoint is taken, and what it must agree on."""

import pytest

from vlv.training.checkpoint import _flat, find_checkpoint


def test_what_has_moved_is_still_the_same():
    here = {"bases": {"decoder": {"source": "/a", "config_sha256": "1"}}, "trained": ["mlp"]}
    there = {"bases": {"decoder": {"source": "/b", "config_sha256": "1"}}, "trained": ["mlp"]}
    other = {"bases": {"decoder": {"source": "/a", "config_sha256": "2"}}, "trained": ["mlp"]}
    assert _flat(here) == _flat(there) == {"bases.decoder.config_sha256": "1", "trained": ["mlp"]}
    assert _flat(here) != _flat(other)


def test_find_checkpoint(tmp_path):
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("latest", tmp_path) is None
    with pytest.raises(ValueError, match="is no checkpoint"):
        find_checkpoint(str(tmp_path), tmp_path)
