"""How weights are read: in which format, from which files, and which text encoders are not read at all."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tests.unit.decoders.pipelines import FAMILIES
from vlv.checkpoints.identity import component_hashes
from vlv.decoders import DecoderSettings, build_decoder
from vlv.decoders.parts import DecoderParts
from vlv.sampling import sample_generators, sample_noise
from vlv.testing.components import SENTENCES, write_stable_diffusion

ALL = ["2", *FAMILIES]


@pytest.fixture(scope="module")
def decoders(folders, tiny_components):
    return {"2": tiny_components / "stable-diffusion", **{name: folders / name for name in FAMILIES}}


@pytest.fixture
def loaded_texts(monkeypatch):
    """Names of the text encoders that are read."""
    names, load = [], DecoderParts.text_encoder

    def watched(self, name, kind, **options):
        names.append(name)
        return load(self, name, kind, **options)

    monkeypatch.setattr(DecoderParts, "text_encoder", watched)
    return names


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
def test_loading_in_a_format_is_loading_in_fp32_and_casting(decoders, name, dtype, conditioning):
    loaded = build_decoder(decoders[name], DecoderSettings(conditioning, 64, dtype))
    kinds = {value.dtype for key, value in loaded.named_parameters() if not key.startswith(("vae.", "conditioner.t5"))}
    assert kinds == {getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[dtype])}
    cast = build_decoder(decoders[name], DecoderSettings(conditioning, 64))
    cast.set_dtypes(getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[dtype]))
    theirs = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    ours = {**dict(cast.named_parameters()), **dict(cast.named_buffers())}
    assert theirs.keys() == ours.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype, key
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("name", ALL)
def test_weights_in_files_of_a_variant_alone_are_read(decoders, tmp_path, name):
    folder = shutil.copytree(decoders[name], tmp_path / "fp16")
    for path in list(folder.rglob("*.safetensors")):
        half = {key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()}
        save_file(half, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        path.unlink()
    whole = build_decoder(decoders[name], DecoderSettings(resolution=64)).state_dict()
    for key, value in build_decoder(folder, DecoderSettings(resolution=64)).state_dict().items():
        assert torch.equal(value, whole[key].half().to(value.dtype)), key
    assert component_hashes(folder)["weights_fingerprint"] != component_hashes(decoders[name])["weights_fingerprint"]


def test_variants_of_sharded_weights_are_read(decoders, tmp_path):
    folder = shutil.copytree(decoders["2"], tmp_path / "fp16")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").half()
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae", variant="fp16", max_shard_size="100KB")
    assert len(list((folder / "vae").glob("*.fp16-*.safetensors"))) > 1
    whole = build_decoder(decoders["2"], DecoderSettings(resolution=64)).vae.state_dict()
    for key, value in build_decoder(folder, DecoderSettings(resolution=64)).vae.state_dict().items():
        assert torch.equal(value, whole[key].half().float()), key


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("2", ["text_encoder"]),
        ("xl", []),  # its pipeline takes zeros for no prompt
        ("3", ["text_encoder", "text_encoder_2", "text_encoder_3"]),
        ("3_without_t5", ["text_encoder", "text_encoder_2"]),
    ],
)
def test_direct_conditioning_reads_text_encoders_for_the_empty_prompt_alone(decoders, loaded_texts, name, texts):
    decoder = build_decoder(decoders[name], DecoderSettings("direct", 64))
    assert loaded_texts == texts
    assert not any(isinstance(module, PreTrainedModel) for module in decoder.modules())


@pytest.mark.parametrize("name", ALL)
def test_a_captioners_conditioner_is_shared_and_not_read_again(decoders, loaded_texts, name):
    whole = build_decoder(decoders[name], DecoderSettings(resolution=64))
    loaded_texts.clear()
    decoder = build_decoder(decoders[name], DecoderSettings(resolution=64), conditioner=whole.conditioner)
    assert loaded_texts == []
    assert decoder.conditioner is whole.conditioner
    embeddings = {space.name: torch.randn(2, 5, space.width) for space in whole.conditioner.spaces}
    conditioning = whole.conditioner(embeddings)
    for got, expected in zip(decoder.unconditional(conditioning), whole.unconditional(conditioning), strict=True):
        assert got is expected is None or torch.equal(got, expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_images_by_pndm_are_the_pipelines(tmp_path, drawn_exactly, guidance_scale):
    """Stable Diffusion 1.5 ships PNDM; its settings come through the scheduler of training."""
    torch.manual_seed(0)
    folder = tmp_path / "stable-diffusion-1.5"
    write_stable_diffusion(folder, list(SENTENCES), first=True)
    decoder = build_decoder(folder, DecoderSettings(resolution=64))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert isinstance(pipeline.scheduler, PNDMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    ids = pipeline.tokenizer("a boat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    generators = sample_generators(0, [3])
    options = {"guidance_scale": guidance_scale, "num_inference_steps": 6}
    noise = sample_noise(decoder.latent_shape, generators)
    expected = pipeline("a boat", latents=noise, generator=generators, output_type="pt", **options).images
    embeddings = {"clip": pipeline.text_encoder.get_input_embeddings()(ids).detach()}
    drawn = drawn_exactly(
        decoder, decoder.conditioner(embeddings), generators=sample_generators(0, [3]), scheduler="pndm", **options
    )
    assert torch.allclose(drawn, expected, atol=1e-4)
