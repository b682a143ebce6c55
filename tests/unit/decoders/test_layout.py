"""What the JSON files of a folder tell: sizes as the built modules have them, and what is refused by name."""

import json
import shutil
import subprocess
import sys

import pytest

from vlv.decoders import DecoderSettings, build_decoder, load_conditioner, read_layout
from vlv.encoders import EncoderSettings, read_encoder_layout

NAMES = ("2", "xl", "3", "3_without_t5")


@pytest.fixture(scope="module")
def decoders(folders, tiny_components):
    return {"2": tiny_components / "stable-diffusion", **{name: folders / name for name in NAMES[1:]}}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("conditioning", ["text_encoder", "clip", "direct"])
def test_spaces_are_those_of_the_modules(decoders, name, conditioning):
    if conditioning == "clip" and "3" not in name:
        pytest.skip("no T5 to leave out")
    layout = read_layout(decoders[name])
    decoder = build_decoder(decoders[name], DecoderSettings(conditioning, 64), device="meta")
    assert layout.spaces(conditioning) == decoder.conditioner.spaces
    assert layout.states_width == decoder.conditioner.width
    assert layout.num_train_timesteps == decoder.noise_scheduler.config.num_train_timesteps
    assert layout.family.schedulers == tuple(decoder.schedulers)
    assert layout.family.loss_options == decoder.supported_loss_options


def changed(folder, target, file, **values):
    """A folder of the same JSON files with one of them changed; None takes a key away."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    content = json.loads((target / file).read_text())
    content |= values
    (target / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return target


SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("name", "file", "values", "message"),
    [
        ("2", SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "is a EDMEulerScheduler, of another objective"),
        ("xl", SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, "of another objective than DDPM's"),
        ("xl", SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "of another objective than DDPM's"),
        ("2", SCHEDULER, {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "of another objective"),
        ("2", SCHEDULER, {"_class_name": "LCMScheduler"}, "is a LCMScheduler, of another objective"),
        ("2", SCHEDULER, {"prediction_type": "sample"}, "prediction_type='sample': only epsilon and v_prediction"),
        ("3", SCHEDULER, {"_class_name": "EulerDiscreteScheduler"}, "is trained by rectified flow"),
        ("3", SCHEDULER, {"use_dynamic_shifting": True}, "use_dynamic_shifting=true"),
        (
            "xl",
            "vae/config.json",
            {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4},
            "latents_mean and latents_std",
        ),
        ("2", "unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256, a model distilled"),
        ("2", "unet/config.json", {"in_channels": 9}, "in_channels=9, and the VAE has 4 channels: an inpainting"),
        ("xl", "unet/config.json", {"addition_embed_type": None}, "addition_embed_type=None"),
        ("2", "unet/config.json", {"cross_attention_dim": 99}, "mixes two models"),
        ("3", "transformer/config.json", {"joint_attention_dim": 99}, "T5's width is not the denoiser's 99"),
        ("2", "model_index.json", {"_class_name": "FluxPipeline"}, "is a FluxPipeline; the decoders here are"),
    ],
)
def test_what_would_load_and_be_wrong_is_refused_by_name(decoders, tmp_path, name, file, values, message):
    folder = changed(decoders[name], tmp_path / "changed", file, **values)
    with pytest.raises(ValueError, match=message) as failure:
        read_layout(folder).check(DecoderSettings(resolution=64))
    assert "\n" not in str(failure.value)
    with pytest.raises(ValueError, match=message):  # and on loading, before a weight is read: the folder has none
        build_decoder(folder, DecoderSettings(resolution=64))


@pytest.mark.parametrize("conditioning", ["text_encoder", "direct"])
def test_a_t5_that_the_index_names_and_the_folder_lacks_is_refused(decoders, tmp_path, conditioning):
    folder = shutil.copytree(decoders["3"], tmp_path / "3", ignore=shutil.ignore_patterns("text_encoder_3"))
    with pytest.raises(ValueError, match=r"names text_encoder_3 \(T5EncoderModel\), which is not there"):
        build_decoder(folder, DecoderSettings(conditioning, 64))
    read_layout(folder).check(DecoderSettings("clip", 64))  # leaves T5 out anyway
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "text_encoder_3": [None, None]}))
    assert not read_layout(folder).has_t5
    assert [space.name for space in load_conditioner(folder, DecoderSettings()).spaces] == ["clip_l", "clip_g"]


def test_settings_that_do_not_fit_are_refused(decoders):
    for name in ("2", "xl"):
        with pytest.raises(ValueError, match="t5_dtype=bf16: no T5 with this decoder"):
            read_layout(decoders[name]).check(DecoderSettings(resolution=64, t5_dtype="bf16"))
    with pytest.raises(ValueError, match="decoder_resolution=50 is no multiple of 16: give 48"):
        read_layout(decoders["2"]).check(DecoderSettings(resolution=50))
    with pytest.raises(ValueError, match="dtype='float8' cannot be used: give fp32, bf16, fp16"):
        DecoderSettings(dtype="float8")


def test_a_decoder_and_an_encoder_in_each_others_place_are_told_apart(decoders, tiny_components):
    with pytest.raises(ValueError, match="is a model of type florence2: give a diffusers folder"):
        read_layout(tiny_components / "florence2")
    with pytest.raises(ValueError, match="is a StableDiffusionXLPipeline, a decoder: give the folder of Florence-2"):
        read_encoder_layout(decoders["xl"])
    with pytest.raises(ValueError, match="holds a model of type qwen2, not Florence-2"):
        read_encoder_layout(tiny_components / "qwen")


def test_queries_and_resolution_are_held_to_the_learned_positions(decoders, tiny_components):
    encoder = read_encoder_layout(tiny_components / "florence2")
    spaces = read_layout(decoders["2"]).spaces("text_encoder")
    encoder.check(EncoderSettings(num_queries=77, resolution=128), spaces)
    with pytest.raises(ValueError, match="num_queries=78 cannot be used: give 1 to 77"):
        encoder.check(EncoderSettings(num_queries=78, resolution=128), spaces)
    with pytest.raises(ValueError, match="encoder_resolution=100000 gives"):
        encoder.check(EncoderSettings(resolution=100000), spaces)


def test_layouts_need_no_torch(decoders, tiny_components):
    code = (
        "import sys; from pathlib import Path; from vlv.decoders import DecoderSettings, read_layout; "
        "from vlv.encoders import EncoderSettings, read_encoder_layout; "
        f"layout = read_layout(Path({str(decoders['3'])!r})); layout.check(DecoderSettings(resolution=64)); "
        f"encoder = read_encoder_layout(Path({str(tiny_components / 'florence2')!r})); "
        "encoder.check(EncoderSettings(resolution=128), layout.spaces('text_encoder')); "
        "assert not {'torch', 'transformers', 'diffusers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
