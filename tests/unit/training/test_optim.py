import pytest
import torch
from diffusers.optimization import get_scheduler

from vlv.training.optim import build_optimizer, lr_at


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_lr_ends_at_zero_at_the_last_step_and_stays(schedule):
    def lr(step):
        return lr_at(step, lr=2.0, schedule=schedule, num_steps=100)

    assert lr(0) == 2.0
    assert lr(50) == pytest.approx(1.0)
    assert lr(99) < 0.05
    assert lr(100) == pytest.approx(0.0)


def test_a_cosine_made_for_fewer_steps_swings_back_up():
    """The published run: a cosine of 20,000 steps over 200,000 ends at its peak."""
    assert lr_at(20_000, lr=5e-5, schedule="cosine", num_steps=20_000) == pytest.approx(0.0)
    assert lr_at(200_000, lr=5e-5, schedule="cosine", num_steps=20_000) == pytest.approx(5e-5)
    assert lr_at(150, lr=1.0, schedule="linear", num_steps=100) == 0.0


def test_warmup_rises_linearly_then_the_schedule_starts_at_its_peak():
    values = [lr_at(step, lr=1.0, schedule="linear", num_steps=20, warmup_steps=4) for step in range(6)]
    assert values[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[5] < 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_schedules_are_those_of_diffusers_after_the_warmup(schedule):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = get_scheduler(schedule, optimizer, num_warmup_steps=0, num_training_steps=40)
    for step in range(41):
        assert lr_at(step, lr=0.5, schedule=schedule, num_steps=40) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_constant():
    assert lr_at(10**6, lr=0.3, schedule="constant", num_steps=10) == 0.3


def test_optimizer_holds_what_trains_alone():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    module[0].requires_grad_(False)
    optimizer = build_optimizer(module, 1e-3)
    assert optimizer.param_groups[0]["params"] == list(module[1].parameters())
    assert optimizer.param_groups[0]["lr_scale"] == 1
    with pytest.raises(ValueError, match="nothing trains"):
        build_optimizer(module.requires_grad_(False), 1e-3)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_part_may_have_a_rate_of_its_own(kind):
    module = torch.nn.ModuleDict({"mlp": torch.nn.LayerNorm(2), "encoder": torch.nn.LayerNorm(2)})
    groups = build_optimizer(module, 2e-3, part_lrs={"encoder.": 1e-4}, kind=kind).param_groups
    assert [group["params"] for group in groups] == [
        list(module["mlp"].parameters()),
        list(module["encoder"].parameters()),
    ]
    assert [group["lr_scale"] for group in groups] == [1, 0.05]
