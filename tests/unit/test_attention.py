"""Which of torch's two attentions computes on a CPU."""

import pytest
import torch
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlv.attention import choose_for_training, forward_alone

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before():
    enabled = cuda.flash_sdp_enabled()
    cuda.enable_flash_sdp(True)  # a training that another test ran in this process may have switched it off
    yield
    cuda.enable_flash_sdp(enabled)


@pytest.mark.parametrize(
    ("device", "precision", "positions", "fused"),
    [(CPU, "bf16", 576, False), (CPU, "bf16", 2304, True), (CPU, "fp32", 576, True), (GPU, "bf16", 576, True)],
)
def test_short_sequences_of_a_cpu_in_bf16_do_without_the_fused_kernel(device, precision, positions, fused):
    choose_for_training(device, precision, positions)
    assert cuda.flash_sdp_enabled() == fused


def test_a_pass_without_a_gradient_has_it_again():
    choose_for_training(CPU, "bf16", 77)
    with forward_alone(CPU):
        assert cuda.flash_sdp_enabled()
    assert not cuda.flash_sdp_enabled()


def test_who_asks_for_plain_attention_has_it():
    with sdpa_kernel(SDPBackend.MATH), forward_alone(CPU):
        assert not cuda.flash_sdp_enabled()
