"""Muon: which weights it moves, how far, and what a checkpoint brings back."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn

from vlv.training.muon import orthogonalise, weight_matrices
from vlv.training.optim import build_optimizer
from vlv.training.processes import has_whole_weights


class Model(nn.Module):
    """One of each kind of weight."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.tied = nn.Linear(4, 5, bias=False)
        self.tied.weight = self.table.weight
        self.linear = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.full = nn.Conv2d(2, 3, 3)
        self.depthwise = nn.Conv2d(2, 2, 3, groups=2)
        self.queries = nn.Parameter(torch.zeros(1, 3, 4))


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (3, 27)])
def test_singular_values_come_near_to_one_and_vectors_stay(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) * 3
    result = orthogonalise(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # In the matrix' own singular vectors the result is diagonal: no direction is turned into another.
    inside = left.T @ result @ right.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=0.06)  # bf16, on machines that have it
    well_above_zero = inside.diagonal()[values > 0.05 * values.max()]
    assert well_above_zero.min() > 0.5
    assert well_above_zero.max() < 1.3


def test_a_matrix_without_gradient_stays_finite():
    assert not orthogonalise(torch.zeros(3, 4)).any()


def test_it_moves_linear_maps_and_full_convolutions():
    model = Model()
    assert weight_matrices(model) == {model.linear.weight, model.full.weight}


def test_a_step_is_as_large_as_adamws_and_shrinks_weights_as_adamw_does():
    torch.manual_seed(0)
    module = nn.Linear(32, 64)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = build_optimizer(module, 0.1, weight_decay=0.5, kind="muon")
    for value in module.parameters():
        value.grad = torch.randn_like(value)
    gradients = {name: value.grad.clone() for name, value in module.named_parameters()}
    optimizer.step()
    moved = module.weight - before["weight"] * (1 - 0.1 * 0.5)
    # Of a matrix of 64 x 32 with singular values near 1, the root mean square is near 1 / sqrt(64).
    assert moved.square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)
    assert (moved * gradients["weight"]).sum() < 0
    twin = nn.Linear(32, 64)
    twin.load_state_dict(before)
    twin.bias.grad = gradients["bias"]
    torch.optim.AdamW([twin.bias], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5).step()
    assert torch.equal(module.bias, twin.bias)
    assert all(torch.equal(value.grad, gradients[name]) for name, value in module.named_parameters())


def test_what_a_frozen_or_unused_matrix_has_stays():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    kept = module[1].weight.detach().clone()
    optimizer = build_optimizer(module, 0.1, kind="muon")
    module[0](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(module[1].weight, kept)


def test_a_reloaded_state_goes_on_to_the_same_bits():
    def steps(module, optimizer, first, last):
        for number in range(first, last):
            torch.manual_seed(number)
            optimizer.zero_grad()
            (module(torch.randn(5, 4)) ** 2).sum().backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
        return module, build_optimizer(module, 0.01, kind="muon")

    whole, optimizer = fresh()
    steps(whole, optimizer, 0, 6)
    begun, optimizer = fresh()
    steps(begun, optimizer, 0, 3)
    resumed, again = fresh()
    resumed.load_state_dict(begun.state_dict())
    again.load_state_dict(optimizer.state_dict())
    steps(resumed, again, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(("kind", "whole"), [("MULTI_GPU", True), ("NO", True), ("FSDP", False), ("DEEPSPEED", False)])
def test_shares_of_weights_are_no_matrices(kind, whole):
    assert has_whole_weights(SimpleNamespace(distributed_type=DistributedType[kind])) == whole
