"""Number formats by machine: what `auto` takes on a CPU, measured, and on a GPU."""

import pytest
import torch

from vlv.training.precision import LARGE, check_precision, choose_precision, fastest_precision

HAS_BF16 = [
    ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
    ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
    ({"neon": True, "bf16": True}, True),
    ({}, False),
]


@pytest.fixture
def cpu(monkeypatch):
    """Sets what the CPU has, and what is measured on it: TFLOP/s by number format."""

    def be(capabilities, rates=None):
        def rate(dtype, side):
            assert rates is not None, "nothing is to be measured"
            return rates[dtype]

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        monkeypatch.setattr("vlv.training.precision.product_rate", rate)

    return be


@pytest.mark.parametrize(("capabilities", "has"), HAS_BF16)
def test_a_cpu_without_bf16_is_not_measured_and_warns(cpu, caplog, capabilities, has):
    cpu(capabilities, {torch.float32: 1.0, torch.bfloat16: 3.0} if has else None)
    assert fastest_precision() == ("bf16" if has else "fp32")
    assert choose_precision(LARGE).precision == ("bf16" if has else "fp32")
    assert check_precision("bf16") == "bf16"
    assert ("set precision=fp32" in caplog.text) != has


@pytest.mark.parametrize(("gain", "taken"), [(1.4, "fp32"), (1.6, "bf16")])
def test_large_models_take_the_format_that_is_measured_to_pay(cpu, gain, taken):
    cpu({"amx_bf16": True}, {torch.float32: 0.25, torch.bfloat16: 0.25 * gain})
    choice = choose_precision(LARGE)
    assert choice.precision == taken
    assert f"{0.25 * gain:.2g} TFLOP/s in bf16 and 0.25 in fp32" in choice.reason


def test_small_models_compute_the_same_on_every_cpu(cpu):
    cpu({"amx_bf16": True})
    assert choose_precision(LARGE - 1).precision == "fp32"


def test_a_gpu_decides_by_itself(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert fastest_precision() == "auto"
    assert choose_precision(LARGE).precision == "fp16"


def test_fp16_needs_a_gpu(cpu):
    cpu({})
    with pytest.raises(ValueError, match="precision=fp16 needs a GPU"):
        check_precision("fp16")
