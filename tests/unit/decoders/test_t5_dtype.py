"""The T5 of Stable Diffusion 3.5 in a number format of its own."""

import pytest
import torch

from vlv.decoders import DecoderSettings, build_decoder, stable_diffusion_3


def test_t5_may_keep_bf16(folders):
    decoder = build_decoder(folders / "3", DecoderSettings(resolution=64, t5_dtype="bf16"))
    decoder.set_dtypes(torch.float32)
    kinds = {name: {value.dtype for value in part.parameters()} for name, part in decoder.conditioner.named_children()}
    assert kinds == {"clip_l": {torch.float32}, "clip_g": {torch.float32}, "t5": {torch.bfloat16}}
    whole = build_decoder(folders / "3", DecoderSettings(resolution=64))
    torch.manual_seed(0)
    embeddings = {space.name: torch.randn(2, 8, space.width) for space in whole.conditioner.spaces}
    got, expected = decoder.conditioner(embeddings), whole.conditioner(embeddings)
    assert torch.equal(got.pooled, expected.pooled)
    assert torch.allclose(got.states, expected.states, atol=0.1)


def test_in_fp16_the_layers_of_t5_that_overflow_stay_in_fp32(folders):
    decoder = build_decoder(folders / "3", DecoderSettings(resolution=64))
    whole = {space.name: torch.randn(1, 8, space.width) for space in decoder.conditioner.spaces}
    t5 = decoder.conditioner.t5
    with torch.no_grad():
        for block in t5.encoder.block:
            block.layer[1].DenseReluDense.wo.weight *= 1e6  # past the largest number in fp16
    expected = decoder.conditioner(whole).states
    decoder.set_dtypes(torch.float16)
    kinds = {name.split(".")[-2] for name, value in t5.named_parameters() if value.dtype == torch.float32}
    assert kinds == {"wo"}
    with torch.autocast("cpu", torch.float16):
        got = decoder.conditioner(whole).states
    assert got.isfinite().all()
    assert torch.allclose(got.float(), expected, atol=0.05)


@pytest.mark.parametrize(("name", "conditioning"), [("xl", "text_encoder"), ("3", "clip"), ("3", "direct")])
def test_a_t5_dtype_where_there_is_no_t5_is_refused(folders, name, conditioning):
    with pytest.raises(ValueError, match="t5_dtype=bf16: no T5"):
        build_decoder(folders / name, DecoderSettings(conditioning, 64, t5_dtype="bf16"))


def test_8_bit_names_the_library_that_it_needs(folders, monkeypatch):
    monkeypatch.setattr(stable_diffusion_3, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        build_decoder(folders / "3", DecoderSettings(resolution=64, t5_dtype="int8"))


def test_gradients_pass_through_t5_in_8_bit(folders):
    pytest.importorskip("bitsandbytes")
    conditioner = build_decoder(folders / "3", DecoderSettings(resolution=64, t5_dtype="int8")).conditioner
    assert any(value.dtype == torch.int8 for value in conditioner.t5.parameters())
    embeddings = {space.name: torch.randn(2, 8, space.width, requires_grad=True) for space in conditioner.spaces}
    conditioner(embeddings).states.float().sum().backward()
    assert embeddings["t5"].grad.abs().sum() > 0
