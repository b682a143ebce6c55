"""Recomputing activations: less is kept for backward, in frozen layers too, and nothing else changes."""

import pytest
import torch
from torch import nn

from tests.unit.models.test_captioner import (
    build,
    pair_batch,
    stage1,  # noqa: F401 - a fixture
)
from vlv.frozen import restore_dtypes, set_dtypes
from vlv.models.from_stage1 import decoder_of
from vlv.models.objectives import CaptionObjective


def run(objective, batch):
    """Loss, gradients, and bytes that autograd keeps."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {value.untyped_storage().data_ptr() for value in objective.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum(objective(batch).values())
    loss.backward()
    grads = {name: value.grad.clone() for name, value in objective.named_parameters() if value.grad is not None}
    objective.zero_grad()
    return loss.item(), grads, sum(size for place, size in kept.items() if place not in parameters)


@pytest.mark.parametrize(
    ("trained", "weight"), [(["mlp"], 0.0), (["mlp", "encoder"], 0.0), (["mlp", "llm", "encoder"], 3.0)]
)
def test_checkpointing_keeps_less_and_changes_nothing(stage1, tiny_components, trained, weight):  # noqa: F811
    captioner = build(stage1, tiny_components, trained=trained)
    captioner.set_dropout(0.0)
    decoder = decoder_of(captioner) if weight else None
    objective = CaptionObjective(captioner, 0, decoder, weight).train()
    batch = pair_batch(captioner, ["a red circle", "two stars on white"])
    loss, grads, kept = run(objective, batch)
    captioner.enable_gradient_checkpointing()
    if decoder is not None:
        decoder.enable_gradient_checkpointing()
    again, same, less = run(objective, batch)
    assert again == pytest.approx(loss, rel=1e-6)
    assert grads.keys() == same.keys()
    assert all(torch.allclose(value, same[name], atol=1e-5) for name, value in grads.items())
    assert less < 0.75 * kept


def test_what_keeps_a_dtype_of_its_own_is_left_in_it_and_comes_back():
    model = nn.ModuleDict({"vae": nn.Linear(2, 2), "unet": nn.Linear(2, 2), "t5": nn.Linear(2, 2)})
    model["vae"].kept_dtype, model["t5"].kept_dtype = torch.float32, torch.bfloat16
    model["unet"].register_parameter("levels", nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False))
    set_dtypes(model, torch.float16, torch.float32)
    assert model["unet"].levels.dtype == torch.int8
    assert model["t5"].weight.dtype == torch.bfloat16
    restore_dtypes(model.bfloat16())
    assert model["vae"].weight.dtype == torch.float32
    assert model["unet"].weight.dtype == torch.bfloat16
