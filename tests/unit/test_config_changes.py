"""Which settings a resumed run may change without a word, and which decide the model."""

import dataclasses
from pathlib import Path

import pytest

from vlv.config import Stage1Config, Stage2Config
from vlv.config.changes import HARMLESS, changed_settings
from vlv.settings import save_config
from vlv.settings.declare import settings_of

PATH = "https://me:first@host/a.tar?token=first"


@pytest.fixture
def saved(tmp_path):
    def save(config):
        save_config(config, tmp_path / "config.yaml")
        return tmp_path / "config.yaml"

    return save


@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config])
def test_nothing_changes_by_itself(saved, kind):
    assert changed_settings(saved(kind()), kind()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 1e-4}, ["lr was 5e-05 and is 0.0001"]),
        ({"num_steps": 7, "seed": 1}, ["num_steps was 10000 and is 7", "seed was 42 and is 1"]),
        ({"train_dataset_path": "/other"}, ["train_dataset_path was ./data/Images_6M and is /other"]),
        ({"global_batch_size": 32}, ["global_batch_size was 64 and is 32"]),
        ({"save_step": 3, "num_workers": 1, "num_gpus": 2, "log_every": 5, "keep_checkpoints": 1}, []),
        ({"stable_diffusion_model_path": "/moved", "train_dataset_path": str(Path("data/Images_6M").absolute())}, []),
    ],
)
def test_changes_are_listed_with_old_and_new(saved, changes, words):
    path = saved(Stage1Config())
    assert sorted(changed_settings(path, dataclasses.replace(Stage1Config(), **changes))) == words


def test_stage_2_compares_the_global_batch(saved):
    path = saved(Stage2Config(batch_size=8, num_gpus=4))
    assert changed_settings(path, Stage2Config(batch_size=8, accumulation=2, num_gpus=2)) == []
    words = ["batch_size x accumulation x num_gpus was 32 and is 16"]
    assert changed_settings(path, Stage2Config(batch_size=8, num_gpus=2)) == words


def test_renewed_credentials_are_no_change(saved):
    path = saved(Stage1Config(train_dataset_path=PATH))
    assert changed_settings(path, Stage1Config(train_dataset_path=PATH.replace("first", "second"))) == []


@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config])
def test_a_run_that_streamed_a_url_goes_on_as_a_stream(saved, kind):
    """Earlier versions streamed every URL; by index, the same URL gives another order of samples."""
    key = "train_dataset_path" if kind is Stage1Config else "dataset_path"
    path = saved(kind(**{key: PATH}))
    lines = [line for line in path.read_text().splitlines() if not line.startswith("remote_cache_gb:")]
    path.write_text("\n".join(lines))
    assert changed_settings(path, kind(**{key: f"stream:{PATH}"})) == []
    shown = "https://***@host/a.tar?***"
    assert changed_settings(path, kind(**{key: PATH})) == [f"{key} was stream:{shown} and is {shown}"]
    path.write_text(path.read_text().replace(shown, "pipe:cat a.tar"))
    assert changed_settings(path, kind(**{key: "pipe:cat a.tar"})) == []


def test_every_harmless_setting_is_one():
    assert settings_of(Stage1Config).keys() | settings_of(Stage2Config).keys() >= HARMLESS
