"""How llama.cpp is told to load a file, without it."""

from types import SimpleNamespace

import pytest

from vlv.llamacpp.language_model import model_settings


@pytest.mark.parametrize(
    ("system", "allowed"), [(b"CPU : AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1", False), (b"CPU : AVX2 = 1", True)]
)
def test_a_processor_with_amx_gets_no_layouts_of_its_own(system, allowed):
    settings = SimpleNamespace(use_extra_bufts=True)
    api = SimpleNamespace(llama_model_default_params=lambda: settings, llama_print_system_info=lambda: system)
    assert model_settings(api).use_extra_bufts == allowed
