import torch

from vlv.models.seeded import SeededChoice


def test_draws_follow_the_softmax_and_the_seed_alone():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    count = 4000
    many = SeededChoice(range(count), 0.7)(None, logits.expand(count, 4)).argmax(1)
    shares = torch.bincount(many, minlength=4) / count
    assert torch.allclose(shares, (logits[0] / 0.7).softmax(0), atol=0.03)
    one = SeededChoice([7], 0.7)(None, logits)
    assert one.argmax() == many[7], "the other rows of a batch do not matter"
    assert (one > -torch.inf).sum() == 1


def test_a_row_draws_anew_at_each_step():
    choice = SeededChoice([1], 1.0)
    drawn = {int(choice(None, torch.zeros(1, 50)).argmax()) for _ in range(20)}
    assert len(drawn) > 10
