"""The projector's start from the states' own statistics."""

import pytest
import torch

from vlv.models.projector import Projector, start_as_torch_does
from vlv.whitening import StateMoments


def states_of_images(images: int = 64, rows: int = 8, width: int = 16) -> torch.Tensor:
    """Rows with a mean of their own, ten times larger than what differs from image to image."""
    stream = torch.Generator().manual_seed(0)
    means = torch.randn(1, rows, width, generator=stream) @ torch.diag(torch.linspace(0, 10, width))
    return means + torch.randn(images, rows, width, generator=stream)


def moments_of(states: torch.Tensor, batch: int) -> StateMoments:
    moments = StateMoments(states.shape[-1])
    for part in states.split(batch):
        moments.add(part)
    return moments


def test_moments_are_those_of_all_rows():
    states = states_of_images()
    mean, covariance = moments_of(states, 10).summed(lambda value: value)
    rows = states.flatten(0, 1).double()
    assert torch.allclose(mean, rows.mean(0))
    assert torch.allclose(covariance, torch.cov(rows.T, correction=0))


def test_moments_of_several_processes_are_summed():
    states = states_of_images()
    halves = [moments_of(part, 8) for part in states.chunk(2)]
    ours = iter(halves[0].__dict__)
    mean, covariance = halves[0].summed(lambda value: value + getattr(halves[1], next(ours)))
    whole = moments_of(states, 8).summed(lambda value: value)
    assert torch.allclose(mean, whole[0])
    assert torch.allclose(covariance, whole[1])


def test_no_samples_are_one_clear_error():
    with pytest.raises(ValueError, match="none of the first samples can be read"):
        StateMoments(4).summed(lambda value: value)


def test_a_whitened_start_shows_what_the_images_differ_in():
    """At random, the prefix hardly differs from image to image; the prefix is as large as token embeddings."""
    torch.manual_seed(0)
    states, projector = states_of_images(), Projector(16, 32)

    def share_of_images(prefix: torch.Tensor) -> float:
        return ((prefix - prefix.mean(0)).var() / prefix.var()).item()

    random = share_of_images(projector(states))
    projector.start_whitened(*moments_of(states, 8).summed(lambda value: value), out_std=0.02)
    prefix = projector(states)
    assert share_of_images(prefix) > 2 * random
    assert prefix.std().item() == pytest.approx(0.02, rel=0.15)
    first = projector.layers[0](states)
    assert first.mean().item() == pytest.approx(0, abs=0.1)
    assert first.std().item() == pytest.approx(1, rel=0.15)


def test_the_published_start_has_torchs_scale_at_every_width():
    torch.manual_seed(0)
    for width in (64, 1024):
        projector = Projector(width, width)
        for layer in (projector.layers[0], projector.layers[2]):
            torch.nn.init.normal_(layer.weight, std=0.02)
        start_as_torch_does(projector)
        for layer in (projector.layers[0], projector.layers[2]):
            bound = width**-0.5  # uniform within it, weights and biases
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)
            assert 0 < layer.bias.abs().max() <= bound
