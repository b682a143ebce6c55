"""A dry run reads no weights, and its counts are those of the model that a run loads."""

import pytest

from vlv.config import Stage1Config
from vlv.planning.decoders import shipped_component
from vlv.planning.size import memory_estimate, parameter_counts
from vlv.recipes.stage1 import build_autoencoder, build_without_weights


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
@pytest.mark.parametrize("name", ["2.1", "xl", "3"])
def test_it_counts_what_a_run_loads(folders, tiny_components, name, conditioning):
    decoder = tiny_components / "stable-diffusion" if name == "2.1" else folders / name
    config = Stage1Config(
        stable_diffusion_model_path=str(decoder),
        florence2_model_path=str(tiny_components / "florence2"),
        decoder_resolution=64,
        encoder_resolution=128,
        conditioning=conditioning,
        train="decoder_only",
        param_dtype="bf16",
        t5_dtype="bf16" if name == "3" and conditioning == "text_encoder" else None,
    )
    counted, loaded = build_without_weights(config, "fp32"), build_autoencoder(config, "fp32")
    assert parameter_counts(counted) == parameter_counts(loaded)
    assert memory_estimate(counted) == memory_estimate(loaded)
    assert {value.device.type for value in counted.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("./pretrained_checkpoints/stable-diffusion-xl-base-1.0", "stable-diffusion-xl-base-1.0"),
        ("microsoft/Florence-2-large", "Florence-2-large"),
        ("./my-model", None),
        ("", None),
        ("/", None),
    ],
)
def test_a_component_that_is_not_here_has_a_published_config(source, found):
    shipped = shipped_component(source)
    assert (shipped.name if shipped else None) == found
