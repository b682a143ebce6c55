"""Activations are computed again where that is set, or where a step would not fit the GPU by plan."""

import pytest
import torch

from tests.models import new_stage1
from tests.unit.models.test_captioner import build
from vlv.config import Stage1Config, Stage2Config
from vlv.frozen import is_frozen
from vlv.kept_results import KeptResults
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.objectives import CaptionObjective, DenoisingObjective
from vlv.planning.decoders import gib_an_image
from vlv.planning.step_memory import activations_gib, on_meta
from vlv.recipes import checkpointing

GIB = 2**30


@pytest.fixture(scope="module")
def objective(tiny_components):
    return DenoisingObjective(new_stage1(tiny_components).set_dtypes(torch.bfloat16, torch.float32), 0)


@pytest.fixture(scope="module")
def captions(tiny_components, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage1")
    new_stage1(tiny_components).save_pretrained(folder)
    return CaptionObjective(build(folder, tiny_components), 0, VLVAutoEncoder.from_pretrained(folder).decoder, 1.0)


def recomputes(objective):
    """Whether the frozen denoiser does, through which gradients pass."""
    return any(getattr(module, "gradient_checkpointing", False) for module in objective.modules() if is_frozen(module))


def test_a_copy_without_weights_leaves_the_objective_alone(objective):
    before = {name: value.clone() for name, value in objective.named_parameters()}
    copy = on_meta(objective)
    assert {value.device.type for value in (*copy.parameters(), *copy.buffers())} == {"meta"}
    assert [*dict(copy.named_parameters())] == [*before]
    assert all(torch.equal(value, before[name]) for name, value in objective.named_parameters())
    trained = [[name for name, value in part.named_parameters() if value.requires_grad] for part in (copy, objective)]
    assert trained[0] == trained[1] != []


def test_it_counts_as_the_plan_of_decoders_does(objective):
    more, fewer = (activations_gib(objective, samples, 0, half=True) for samples in (16, 8))
    assert (more - fewer) / 8 == pytest.approx(gib_an_image(on_meta(objective).train().model), rel=0.02)


def test_several_draws_and_captions_count(objective, captions):
    one, two = (
        activations_gib(DenoisingObjective(objective.model, 0, noise_draws=draws), 8, 0, half=True) for draws in (1, 2)
    )
    assert two > 1.3 * one
    short, long = (activations_gib(captions, 4, length, half=False) for length in (8, 32))
    assert long > short


def test_a_plan_reads_no_kept_results_and_draws_no_numbers_of_the_run(tiny_components):
    objective = DenoisingObjective(new_stage1(tiny_components), 0)
    objective.model.encoder.kept_results = KeptResults(4)
    objective.model.encoder.nested_dropout = 0.5
    state = torch.get_rng_state()
    assert len({activations_gib(objective, 4, 0, half=True) for _ in range(4)}) == 1, "no prefix is drawn"
    assert torch.equal(torch.get_rng_state(), state)
    assert objective.model.encoder.kept_results is not None


def test_fp32_takes_more_than_bf16(tiny_components):
    objective = DenoisingObjective(new_stage1(tiny_components), 0)
    fp32, bf16 = (activations_gib(objective, 64, 0, half) for half in (False, True))
    assert fp32 > 1.2 * bf16


def test_a_model_that_asks_for_values_ends_no_run(objective, captions, monkeypatch, capsys):
    def asks(*_):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors\nmore of it")

    monkeypatch.setattr("vlv.planning.step_memory._batch", asks)
    assert not checkpointing.exceeds(Stage1Config(), objective, "bf16", 1)
    said = "gradient_checkpointing=auto is off: its memory cannot be planned (Tensor.item() cannot be called"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("stage", [1, 2])
def test_auto_is_on_where_the_plan_exceeds_the_gpu(stage, objective, captions, capsys):
    objective = objective if stage == 1 else captions
    common = {"max_micro_batch": 8, "num_gpus": 1}
    config = (
        Stage1Config(**common, global_batch_size=8) if stage == 1
        else Stage2Config(**common, batch_size=8, max_caption_tokens=32)
    )  # fmt: skip
    assert checkpointing.exceeds(config, objective, "bf16", GIB // 64)
    said = capsys.readouterr().err
    assert said.startswith("gradient_checkpointing=auto is on: a micro-batch of 8 takes 0.")
    assert not checkpointing.exceeds(config, objective, "bf16", 16 * GIB)
    assert capsys.readouterr().err == ""


def test_weights_in_8_bits_are_not_planned(tiny_components):
    objective = DenoisingObjective(new_stage1(tiny_components), 0)
    objective.model.decoder.register_parameter(
        "packed", torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    )
    assert not checkpointing.exceeds(Stage1Config(), objective, "bf16", 1)


@pytest.mark.parametrize(("setting", "on"), [("on", True), ("off", False), ("auto", False)])
def test_a_cpu_computes_again_only_where_it_is_set(tiny_components, monkeypatch, setting, on):
    monkeypatch.setattr(checkpointing, "on_gpu", lambda: False)
    objective = DenoisingObjective(new_stage1(tiny_components), 0)
    checkpointing.recompute_where_needed(Stage1Config(gradient_checkpointing=setting), objective, "fp32")
    assert recomputes(objective) == on


@pytest.mark.parametrize(
    ("memories", "on"), [([80 * GIB, 1], True), ([80 * GIB, 80 * GIB], False), ([80 * GIB, 80 * GIB, 1], False)]
)
def test_the_smallest_gpu_decides(tiny_components, monkeypatch, memories, on):
    class Card:
        def __init__(self, memory):
            self.total_memory = memory

    monkeypatch.setattr(checkpointing, "on_gpu", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memories))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Card(memories[number]))
    objective = DenoisingObjective(new_stage1(tiny_components), 0)
    checkpointing.recompute_where_needed(Stage1Config(global_batch_size=2, num_gpus=1), objective, "bf16")
    assert recomputes(objective) == on
