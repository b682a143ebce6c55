"""LoRA in place of the language model's weights: a run, its checkpoints, merged and not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.models import new_stage1
from vlv import VLVCaptioner
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.cli import export_checkpoint
from vlv.config import Stage2Config
from vlv.inference.identity import checkpoint_identity
from vlv.models import load_captioner
from vlv.models.lora import is_lora
from vlv.planning.size import memory_estimate
from vlv.recipes.stage2 import build_captioner, train
from vlv.settings import ConfigError
from vlv.settings.loading import load_config

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def config(tiny_components, sample_photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    new_stage1(tiny_components).save_pretrained(root / "stage1")
    return Stage2Config(
        run_name="lora", output_dir=str(root / "run"), dataset_path=str(sample_photos), epochs=None,
        val_dataset_path=str(sample_photos), qwen_model=str(tiny_components / "qwen"), total_steps=4, save_step=2,
        diffusion_model_path=str(root / "stage1"), train=["mlp", "llm"], batch_size=4, num_workers=0, lr=1e-2,
        lora_rank=4, lora_dropout=0.1, max_caption_tokens=24, val_pictures=0, num_gpus=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config):
    final = train(config)
    assert final is not None
    return Path(final).parent


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=generator)


def unmerged(config, run):
    """The run's captioner as training leaves it."""
    model = build_captioner(config, torch.float32)
    missing = model.load_state_dict(load_file(run / "checkpoints/step_00000004/model.safetensors"), strict=False)
    assert not missing.unexpected_keys
    return model.eval()


def logits(captioner, pixels):
    ids = torch.tensor([[5, 6, 7]] * len(pixels))
    images = torch.full((len(pixels), captioner.num_image_tokens), captioner.config.image_token_id)
    with torch.no_grad():
        return captioner(input_ids=torch.cat([images, ids], 1), pixel_values=pixels).logits


def test_lora_trains_alone_and_is_kept_as_peft_keeps_it(config, run, tiny_components):
    names = load_file(run / "checkpoints/step_00000004/model.safetensors").keys()
    assert all(name.startswith("mlp.") or is_lora(name) for name in names)
    assert any(is_lora(name) for name in names)
    model = build_captioner(config, torch.float32)
    assert names == {name for name, value in model.named_parameters() if value.requires_grad}
    assert not any(name.startswith("llm.") for name in load_file(run / "final/model.safetensors"))
    for folder in ("checkpoints/step_00000002", "checkpoints/step_00000004", "final"):
        assert {path.name for path in (run / folder / "lora").iterdir()} >= {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
    last, final = (load_file(run / folder / "lora/adapter_model.safetensors")
                   for folder in ("checkpoints/step_00000004", "final"))  # fmt: skip
    assert all(torch.equal(last[name], final[name]) for name in last.keys() | final.keys())
    moved = [name for name, value in final.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == len(final) / 2
    llm = AutoModelForCausalLM.from_pretrained(tiny_components / "qwen", dtype=torch.float32)
    of_peft = peft.PeftModel.from_pretrained(llm, str(run / "final/lora"))
    embeds = torch.randn(2, 5, llm.config.hidden_size)
    with torch.no_grad():
        ours = unmerged(config, run).llm(inputs_embeds=embeds).logits
        assert torch.equal(of_peft.eval()(inputs_embeds=embeds).logits, ours)


def test_a_lora_run_resumes_bit_exact(config, run, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints/step_00000004")
    shutil.rmtree(folder / "final")
    train(replace(config, output_dir=str(folder), resume="latest"))
    for name in ("final/model.safetensors", "final/lora/adapter_model.safetensors",
                 "checkpoints/step_00000004/optimizer.safetensors"):  # fmt: skip
        expected, got = load_file(run / name), load_file(folder / name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[key], got[key]) for key in expected)
    with pytest.raises(ValueError, match=r"lora\.rank=4, this run has 8"):
        train(replace(config, output_dir=str(folder), resume="latest", lora_rank=8, lora_alpha=8.0))


def test_merged_captions_are_the_unmerged_ones(config, run, pixels, tmp_path):
    apart, loaded = unmerged(config, run), VLVCaptioner.from_pretrained(run / "final")
    assert not any("lora" in name for name in loaded.state_dict())
    export_checkpoint.main([str(run / "final"), str(tmp_path / "merged")])
    assert not (tmp_path / "merged/lora").exists()
    merged = VLVCaptioner.from_pretrained(tmp_path / "merged")
    assert any(name.startswith("llm.") for name in load_file(tmp_path / "merged/model.safetensors"))
    base = build_captioner(replace(config, lora_rank=None, lora_dropout=0.0), torch.float32).eval()
    base.mlp.load_state_dict(apart.mlp.state_dict())
    expected = logits(apart, pixels)
    assert not torch.allclose(logits(base, pixels), expected, atol=1e-2)
    for model in (loaded, merged):
        assert torch.allclose(logits(model, pixels), expected, atol=1e-4)
        for beams in (1, 3):
            assert model.caption_pixels(pixels, beams, 12) == apart.caption_pixels(pixels, beams, 12)


def test_what_is_said_of_a_lora_checkpoint(run, tmp_path):
    assert describe_checkpoint(run / "final")["LoRA"] == "rank 4, alpha 8, by itself in lora/"
    assert describe_checkpoint(run / "checkpoints/step_00000002")["LoRA"].startswith("rank 4, alpha 8")
    with pytest.raises(ValueError, match=r"quantize=int8: LoRA of .* is not merged yet: vlv export"):
        load_captioner(run / "final", quantize="int8")
    with pytest.raises(SystemExit):
        export_checkpoint.main([str(run / "final"), str(tmp_path / "published.safetensors")])
    shutil.copytree(run / "final", tmp_path / "other")
    adapter = tmp_path / "other/lora/adapter_model.safetensors"
    adapter.write_bytes((run / "checkpoints/step_00000002/lora/adapter_model.safetensors").read_bytes())
    keys = [
        checkpoint_identity(folder, "fp32")["checkpoint_fingerprint"] for folder in (run / "final", tmp_path / "other")
    ]
    assert keys[0] != keys[1]


def test_a_plan_with_lora_has_no_gradients_of_the_base(config):
    without = replace(config, lora_rank=None, lora_dropout=0.0)
    full, lora = (memory_estimate(build_captioner(each, torch.float32)) for each in (without, config))
    assert lora["gradients"] < full["gradients"] / 3
    assert lora["optimizer"] == 2 * lora["gradients"]


def test_qlora_trains_over_4_bits(config, tmp_path, pixels):
    pytest.importorskip("bitsandbytes")
    own = replace(config, output_dir=str(tmp_path / "run"), quantize="int4", total_steps=2)
    model = build_captioner(own, torch.float32)
    weight = model.llm.model.layers[0].self_attn.q_proj.base_layer.weight
    assert weight.dtype == torch.uint8
    plain, small = (memory_estimate(build_captioner(each, torch.float32)) for each in (config, own))
    assert small["frozen weights"] < plain["frozen weights"]
    final = train(own)
    loaded = VLVCaptioner.from_pretrained(final)
    assert loaded.llm.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
    state = load_file(tmp_path / "run/checkpoints/step_00000002/model.safetensors")
    model.load_state_dict(state, strict=False)
    expected, got = logits(model.eval(), pixels), logits(loaded, pixels)
    assert (got - expected).norm() < 0.3 * expected.norm()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["lora_alpha=8"], "it is of LoRA: set lora_rank=16"),
        (["quantize=int4"], "it is of LoRA: set lora_rank=16"),
        (["lora_rank=0"], "lora_rank=0 cannot be used"),
        (["lora_rank=8", "train=[mlp]"], "add llm to train"),
        (["lora_rank=8", "quantize=int8"], "give one of int4, or null"),
        (["lora_rank=8", "lora_targets=[]"], "lora_targets"),
        (["lora_rank=8", "initial_checkpoint=x"], "initial_checkpoint"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        load_config(Stage2Config, None, given)


def test_targets_that_no_layer_has_are_refused(config):
    with pytest.raises(ValueError, match=r"lora_targets=\['nothing'\]"):
        build_captioner(replace(config, lora_targets=["nothing"]), torch.float32)
    few = build_captioner(replace(config, lora_targets=["q_proj"]), torch.float32)
    assert {name.split(".")[-4] for name, _ in few.named_parameters() if is_lora(name)} == {"q_proj"}
