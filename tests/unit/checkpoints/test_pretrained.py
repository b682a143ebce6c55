import pytest

from vlv.checkpoints import pretrained
from vlv.checkpoints.identity import CheckpointError, config_hash, is_hub_id
from vlv.checkpoints.pretrained import load_tokenizer, resolve_component
from vlv.checkpoints.schema import require_checkpoint


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen/Qwen2.5-3B", True), ("./a/b", False), ("/a/b", False), ("a/b/c", False), ("model", False)],
)
def test_hub_ids(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) is expected


def test_a_path_into_an_existing_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert not is_hub_id("checkpoints/missing")


def test_a_hub_id_is_fetched_without_duplicates(tmp_path, monkeypatch):
    asked = {}

    def fetch(source, **options):
        asked.update(options, source=source)
        return str(tmp_path)

    monkeypatch.setattr(pretrained, "snapshot_download", fetch)
    assert resolve_component("owner/model", "qwen_model") == tmp_path
    assert asked["source"] == "owner/model"
    assert "*.fp16*" in asked["ignore_patterns"]


def test_an_unreachable_hub_is_one_line():
    with pytest.raises(CheckpointError, match="qwen_model=owner/absent is neither a folder nor a hub model") as failure:
        resolve_component("owner/absent", "qwen_model")
    assert "\n" not in str(failure.value)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no vocabulary"):
        load_tokenizer(tmp_path, "qwen_model")


def test_identity_ignores_who_wrote_the_config(tmp_path):
    for name, text in {"a": '{"x": 1, "_diffusers_version": "1"}', "b": '{"_diffusers_version": "2", "x": 1}'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    assert config_hash(tmp_path / "a") == config_hash(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text('{"x": 2}')
    assert config_hash(tmp_path / "a") != config_hash(tmp_path / "b")


def test_folders_that_are_no_checkpoint_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        require_checkpoint(tmp_path / "absent", "stage1")
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        require_checkpoint(tmp_path, "stage1")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(CheckpointError, match="is a model of type qwen2"):
        require_checkpoint(tmp_path, "stage2")
    (tmp_path / "config.json").write_text('{"model_type": "vlv_autoencoder"}')
    with pytest.raises(CheckpointError, match="is not complete: it lacks conditioning"):
        require_checkpoint(tmp_path, "stage1")
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        require_checkpoint(tmp_path, "stage1")
