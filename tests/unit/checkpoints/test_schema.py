"""Each kind of checkpoint, as it is really written, holds what the table says and nothing else."""

import json

import pytest
from transformers import PreTrainedConfig

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner, VLVEncoder
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.retention import Retention
from vlv.checkpoints.schema import SCHEMAS, describe, kind_of, read_description, require_checkpoint

# What transformers writes into every config.json.
LIBRARY = set(PreTrainedConfig().to_dict()) | {
    "architectures",
    "auto_map",
    "dtype",
    "tie_word_embeddings",
    "transformers_version",
}


@pytest.fixture(scope="module")
def written(tiny_components, tmp_path_factory):
    """One checkpoint of each kind, written as users write it; the one for resuming by a step of training."""
    folder = tmp_path_factory.mktemp("written")
    autoencoder = new_stage1(tiny_components)
    autoencoder.save_pretrained(folder / "stage1")
    autoencoder.encoder.save_pretrained(folder / "encoder")
    new_captioner(folder / "stage1", tiny_components / "qwen").save_pretrained(folder / "stage2")
    train_a_step(autoencoder, folder / "training")
    return folder


def train_a_step(model, folder):
    import torch
    from accelerate import Accelerator

    from vlv.training.checkpoint import Checkpointer
    from vlv.training.state import TrainState

    objective = torch.nn.Module()
    objective.model = model
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare(torch.optim.AdamW([model.encoder.query_embed]))
    model.encoder.query_embed.grad = torch.zeros_like(model.encoder.query_embed)
    optimizer.step()

    def write_extras(place):
        (place / "config.yaml").write_text("lr: 1.0\n")
        model.save_description(place)

    for name, value in model.named_parameters():
        value.requires_grad_(name == "encoder.query_embed")
    Checkpointer(
        folder, accelerator, retention=Retention(0), identity=model.describe(), write_extras=write_extras
    ).save(objective, optimizer, TrainState(1, 8)).rename(folder.with_name("step"))
    folder.rmdir()
    folder.with_name("step").rename(folder)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_written_checkpoint_holds_what_the_table_says(written, kind):
    schema, folder = SCHEMAS[kind], written / kind
    content = read_description(folder, kind)
    unknown = content.keys() - schema.keys() - (set() if kind == "training" else LIBRARY)
    assert not unknown, f"{unknown} is written and not in the table"
    assert content.get("model_type") == schema.model_type
    there = {path.name for path in folder.iterdir()}
    for names in schema.files:
        assert there & set(names.split("|")), f"{names} is in the table and not written"
    known = {name for names in (*schema.files, *schema.more_files) for name in names.split("|")}
    assert there <= known, f"{there - known} is written and not in the table"
    if kind != "training":
        assert kind_of(folder) == kind
        assert require_checkpoint(folder, kind) == folder


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_required_key_is_required(written, kind, tmp_path):
    schema = SCHEMAS[kind]
    for key in schema.required:
        content = json.loads((written / kind / schema.description).read_text())
        *outer, last = key.split(".")
        place = content
        for name in outer:
            place = place[name]
        del place[last]
        (tmp_path / schema.description).write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=f"is not complete: it lacks {key}$"):
            read_description(tmp_path, kind)


@pytest.mark.parametrize(
    ("kind", "model"), [("stage1", VLVAutoEncoder), ("stage2", VLVCaptioner), ("encoder", VLVEncoder)]
)
def test_the_config_classes_have_the_tables_keys(kind, model):
    own = set(model.config_class.__annotations__) - {"model_type", "sub_configs_defaults"}
    assert own == SCHEMAS[kind].keys() - {"model_type"}
    assert model.config_class.model_type == SCHEMAS[kind].model_type


def test_a_writer_cannot_leave_out_or_add_a_key():
    with pytest.raises(AssertionError, match="must be written"):
        describe("training", {"step": 1})
    with pytest.raises(AssertionError, match="is not in the table"):
        describe("training", {"step": 1, "samples": 2, "identity": {"a": 1}, "more": 3})
