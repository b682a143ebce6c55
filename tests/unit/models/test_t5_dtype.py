"""The T5 of Stable Diffusion 3.5 in a number format of its own."""

import pytest
import torch

from vlv.models.decoders import load_decoder, three_text_encoders


def test_t5_may_keep_bf16(folders):
    decoder = load_decoder(folders / "3", "text_encoder", 64, t5_dtype="bf16")
    decoder.set_dtypes(torch.float32)
    kinds = {name: {value.dtype for value in part.parameters()} for name, part in decoder.conditioner.named_children()}
    assert kinds == {"clip_l": {torch.float32}, "clip_g": {torch.float32}, "t5": {torch.bfloat16}}
    whole = load_decoder(folders / "3", "text_encoder", 64)
    torch.manual_seed(0)
    embeddings = {space.name: torch.randn(2, 8, space.width) for space in whole.conditioner.spaces}
    got, expected = decoder.conditioner(embeddings), whole.conditioner(embeddings)
    assert torch.equal(got.pooled, expected.pooled)
    assert torch.allclose(got.states, expected.states, atol=0.1)


@pytest.mark.parametrize(("name", "conditioning"), [("xl", "text_encoder"), ("3", "clip"), ("3", "direct")])
def test_a_t5_dtype_where_there_is_no_t5_is_refused(folders, name, conditioning):
    with pytest.raises(ValueError, match="t5_dtype=bf16: no T5"):
        load_decoder(folders / name, conditioning, 64, t5_dtype="bf16")


def test_8_bit_names_the_library_that_it_needs(folders, monkeypatch):
    monkeypatch.setattr(three_text_encoders, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        load_decoder(folders / "3", "text_encoder", 64, t5_dtype="int8")


def test_gradients_pass_through_t5_in_8_bit(folders):
    pytest.importorskip("bitsandbytes")
    conditioner = load_decoder(folders / "3", "text_encoder", 64, t5_dtype="int8").conditioner
    assert any(value.dtype == torch.int8 for value in conditioner.t5.parameters())
    embeddings = {space.name: torch.randn(2, 8, space.width, requires_grad=True) for space in conditioner.spaces}
    conditioner(embeddings).states.float().sum().backward()
    assert embeddings["t5"].grad.abs().sum() > 0
