import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.conftest import ROOT, metrics
from vlv import VLVAutoEncoder, VLVCaptioner
from vlv.decoders import DecoderSettings
from vlv.encoders import EncoderSettings

TINY1, TINY2 = ROOT / "configs/stage1_tiny.yaml", ROOT / "configs/stage2_tiny.yaml"


@pytest.fixture
def again(launch, components, sample_photos):
    """A short stage 1 with other settings."""

    def run(folder, *arguments, returncode=0, **variables):
        settings = {
            "CONFIG": TINY1,
            "train_dataset_path": sample_photos,
            "val_dataset_path": sample_photos,
            "output_dir": folder,
            "num_steps": 8,
            "save_step": 4,
            "global_batch_size": 4,
            **components,
        }
        done = launch("train_stage1.sh", "log_every=1", "val_pictures=0", *arguments, **{**settings, **variables})
        assert done.returncode == returncode, done.stderr
        return done

    return run


def test_a_run_leaves_what_the_docs_say(stage1):
    assert (stage1 / "config.yaml").is_file()
    assert sorted(path.name for path in (stage1 / "checkpoints").iterdir()) == ["step_00000004", "step_00000008"]
    names = {path.name for path in (stage1 / "checkpoints" / "step_00000008").iterdir()}
    assert {"model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.yaml"} <= names
    final = {path.name for path in (stage1 / "final").iterdir()}
    assert final == {"README.md", "config.json", "config.yaml", "model.safetensors", "preprocessor_config.json"}
    assert len(list((stage1 / "validation" / "step_00000008").glob("*.png"))) == 2
    card = (stage1 / "final" / "README.md").read_text()
    assert ": 4 samples |" in card
    assert "| steps | 8 |" in card
    assert "last val/loss" in card


def test_the_schedule_ends_at_zero(stage1):
    rates = metrics(stage1, "train/lr")
    assert list(rates) == list(range(1, 9))
    assert rates[1] == pytest.approx(1e-3)
    assert rates[8] < 1e-4


def test_final_is_the_last_checkpoint(stage1):
    final = load_file(stage1 / "final" / "model.safetensors")
    last = load_file(stage1 / "checkpoints" / "step_00000008" / "model.safetensors")
    assert final.keys() == last.keys()
    assert all(torch.equal(final[name], last[name]) for name in final)


def test_frozen_weights_are_the_components_to_the_bit(stage1, tiny_components, components):
    trained = VLVAutoEncoder.from_pretrained(stage1 / "final")
    fresh = VLVAutoEncoder.from_components(
        *(str(path) for path in components.values()), DecoderSettings(resolution=64), EncoderSettings(resolution=128)
    )
    moved = 0
    for (name, value), (_, other) in zip(trained.named_parameters(), fresh.named_parameters(), strict=True):
        if value.requires_grad:
            moved += not torch.equal(value, other)
        else:
            assert torch.equal(value, other), name
    assert moved > 10


def test_resume_is_bit_exact(stage1, again, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(stage1, folder)
    shutil.rmtree(folder / "checkpoints" / "step_00000008")
    shutil.rmtree(folder / "final")
    before = metrics(stage1, "train/loss")
    (folder / "metrics.jsonl").unlink()
    done = again(folder, "resume=latest")
    assert "resuming from" in done.stderr
    assert metrics(folder, "train/loss") == {step: before[step] for step in range(5, 9)}
    expected, got = (load_file(path / "final" / "model.safetensors") for path in (stage1, folder))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_regions_start_whitened_and_resume_bit_exact(again, tmp_path):
    settings = ("region_grid=3", "bart_lr=1e-4", "noise_draws=2", "optimizer=muon")
    again(tmp_path / "whole", *settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_00000008")
    shutil.rmtree(tmp_path / "resumed" / "final")
    other = again(tmp_path / "resumed", *settings[:-1], "resume=latest", returncode=2)
    assert "optimizer=muon, this run has adamw: give the same optimizer" in other.stderr
    again(tmp_path / "resumed", *settings, "resume=latest")
    expected, got = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert expected["encoder.regions.mean"].abs().max() > 0.05  # of 8 steps at 1e-3 alone it would be 0.008 at most


@pytest.mark.distributed
def test_two_processes_learn_the_same(stage1, again, tmp_path):
    done = again(tmp_path, num_gpus=2, ACCELERATE_CONFIG=ROOT / "configs/accelerate/cpu.yaml")
    assert "x 2 processes" in done.stderr
    for key, tolerance in (("train/lr", 0), ("train/loss", 1e-4), ("val/loss", 1e-4)):
        one, two = metrics(stage1, key), metrics(tmp_path, key)
        assert one.keys() == two.keys()
        assert all(abs(one[step] - two[step]) <= tolerance for step in one), key


def test_accumulation_learns_the_same(stage1, again, tmp_path):
    done = again(tmp_path, "max_micro_batch=3")
    assert "micro-batch 2 x accumulation 2 x 1 processes" in done.stderr
    one, two = metrics(stage1, "train/loss"), metrics(tmp_path, "train/loss")
    assert all(abs(one[step] - two[step]) <= 1e-4 for step in one)


def test_stage1_lowers_its_fixed_noise_loss(again, tmp_path):
    again(tmp_path / "untrained", num_steps=1, lr=1e-9)
    again(tmp_path / "trained", num_steps=80, save_step=80)
    before, after = metrics(tmp_path / "untrained", "val/loss")[1], metrics(tmp_path / "trained", "val/loss")[80]
    # The tiny denoiser is random: its error stays above the noise's own variance, about 1, and the encoder
    # can only lower the rest. Noise and timesteps are fixed, so any drop is learned.
    assert before - after > 0.03


def test_a_resumed_run_keeps_the_number_format_that_it_has(again, tmp_path):
    again(tmp_path, "precision=bf16", num_steps=2, save_step=1, lr_schedule="constant")
    shutil.rmtree(tmp_path / "final")
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000002")
    before = metrics(tmp_path, "train/loss")[2]
    again(tmp_path, "resume=latest", num_steps=2, save_step=1, lr_schedule="constant")  # precision=auto
    assert "precision: bf16\n" in (tmp_path / "config.yaml").read_text()
    assert metrics(tmp_path, "train/loss")[2] == before
    other = ("resume=latest", "precision=fp32")
    done = again(tmp_path, *other, num_steps=2, save_step=1, lr_schedule="constant", returncode=2)
    assert "precision was bf16 and is fp32" in done.stderr


def test_gradient_checkpointing_and_bf16_weights_train(again, tmp_path):
    again(tmp_path, "gradient_checkpointing=true", "param_dtype=bf16", "precision=bf16", num_steps=2, save_step=2)
    assert load_file(tmp_path / "final" / "model.safetensors")["encoder.query_embed"].dtype == torch.bfloat16
    assert VLVAutoEncoder.from_pretrained(tmp_path / "final").encoder.query_embed.dtype == torch.float32


def test_gradient_checkpointing_changes_no_loss(stage1, again, tmp_path):
    again(tmp_path, "gradient_checkpointing=true", num_steps=8)
    one, two = metrics(stage1, "train/loss"), metrics(tmp_path, "train/loss")
    assert all(abs(one[step] - two[step]) <= 1e-5 for step in one)


def test_the_device_resizes_for_the_encoder(stage1, again, tmp_path):
    """Nearly as Pillow does: the losses are those of the loader's view, within what a rounded pixel changes."""
    again(tmp_path, "encoder_view=device", num_steps=8)
    one, two = metrics(stage1, "train/loss"), metrics(tmp_path, "train/loss")
    assert one.keys() == two.keys()
    assert all(abs(one[step] - two[step]) <= 1e-3 for step in one)


def test_what_goes_beyond_the_paper_trains_and_resumes(stage1, again, tmp_path):
    options = (
        "ema_decay=0.9", "min_snr_gamma=5", "conditioning_dropout=0.2", "encoder_view_from_original=true",
        f"initial_checkpoint={stage1 / 'final'}",
    )  # fmt: skip
    again(tmp_path, *options)
    final = load_file(tmp_path / "final" / "model.safetensors")
    checkpoint = tmp_path / "checkpoints" / "step_00000008"
    average = load_file(checkpoint / "average.safetensors")
    assert all(torch.equal(final[name], average[f"model.{name}"]) for name in final)
    last = load_file(checkpoint / "model.safetensors")
    assert not torch.equal(final["encoder.query_embed"], last["encoder.query_embed"])
    assert VLVAutoEncoder.from_pretrained(tmp_path / "final").image_processor.encoder_view_from_original
    shutil.rmtree(checkpoint)
    again(tmp_path, *options, "resume=latest")
    resumed = load_file(tmp_path / "final" / "model.safetensors")
    assert all(torch.equal(final[name], resumed[name]) for name in final)


def test_a_second_run_in_the_same_folder_is_refused(launch, stage1, components, sample_photos):
    done = launch(
        "train_stage1.sh",
        CONFIG=TINY1,
        train_dataset_path=sample_photos,
        val_dataset_path=sample_photos,
        output_dir=stage1,
        **components,
    )
    assert done.returncode == 2
    assert "resume=latest" in done.stderr


def test_dry_run_prints_and_writes_nothing(launch, components, sample_photos, tmp_path):
    done = launch(
        "train_stage1.sh",
        "dry_run=true",
        CONFIG=TINY1,
        train_dataset_path=sample_photos,
        val_dataset_path=sample_photos,
        output_dir=tmp_path / "run",
        num_gpus=4,
        global_batch_size=64,
        **components,
    )
    assert done.returncode == 0, done.stderr
    assert "trained, " in done.stdout
    assert "micro-batch 16 x accumulation 1 x 4 processes" in done.stdout
    assert "frozen weights 5.4 MiB" in done.stdout  # in the unit that fits
    assert "frozen ones in fp32 (" in done.stdout  # so small a model, on every CPU
    assert not (tmp_path / "run").exists()


def test_stage2_leaves_a_whole_captioner(stage2, sample_photos):
    captions = json.loads((stage2 / "validation" / "step_00000004" / "captions.json").read_text())
    truth = json.loads((sample_photos / "captions.json").read_text())
    assert captions[0]["reference"].strip() == truth[captions[0]["name"]]
    captioner = VLVCaptioner.from_pretrained(stage2 / "final")
    assert captioner.config.origin["trained"] == ["mlp", "llm", "encoder"]
    assert "| language_model | qwen: " in (stage2 / "final" / "README.md").read_text()


def test_stage2_freezes_what_it_says(stage2, stage1):
    captioner = VLVCaptioner.from_pretrained(stage2 / "final")
    before = VLVAutoEncoder.from_pretrained(stage1 / "final").encoder
    assert torch.equal(captioner.encoder.query_embed, before.query_embed)
    for (name, value), (_, other) in zip(captioner.encoder.named_parameters(), before.named_parameters(), strict=True):
        if "language_model" not in name:
            assert torch.equal(value, other), name


def test_stage2_resumes_bit_exact(launch, stage1, tiny_components, sample_photos, tmp_path):
    def run(folder, *arguments):
        done = launch(
            "train_stage2.sh", "log_every=1", "val_pictures=0", "dropout=null", "projector_init=whitened",
            "encoder_lr=1e-4", "projector_lr=4e-4", *arguments,
            CONFIG=TINY2, dataset_path=sample_photos, val_dataset_path=sample_photos,
            qwen_model=tiny_components / "qwen", diffusion_model_path=stage1 / "final", output_dir=folder,
            total_steps=6, save_step=3, batch_size=4,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step_00000006")
    run(tmp_path / "resumed", "resume=latest")
    expected, got = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.distributed
def test_stage2_with_denoising_on_two_processes(launch, stage1, stage2, tiny_components, sample_photos, tmp_path):
    """On a mixture, whose sources are reported one by one."""
    mixture = tmp_path / "mixture.yaml"
    sources = [{"name": name, "path": str(sample_photos), "weight": weight} for name, weight in (("a", 3), ("b", 1))]
    mixture.write_text(json.dumps({"sources": sources}))  # YAML holds JSON

    def run(folder, **variables):
        done = launch(
            "train_stage2.sh", "log_every=1", "val_pictures=0", "diffusion_weight=3", "projector_init=whitened",
            CONFIG=TINY2, dataset_path=mixture, val_dataset_path=sample_photos,
            qwen_model=tiny_components / "qwen", diffusion_model_path=stage1 / "final", output_dir=folder,
            total_steps=4, save_step=4, **variables,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    run(tmp_path / "one", batch_size=4)
    run(tmp_path / "two", batch_size=2, num_gpus=2, ACCELERATE_CONFIG=ROOT / "configs/accelerate/cpu.yaml")
    terms = [f"train/{source}{term}_loss" for source in ("", "a/", "b/") for term in ("caption", "diffusion")]
    for key in ("train/loss", "train/lr", "val/loss", *terms, "train/a/caption_count", "train/b/diffusion_count"):
        one, two = metrics(tmp_path / "one", key), metrics(tmp_path / "two", key)
        assert one.keys() == two.keys()
        assert all(abs(one[step] - two[step]) <= 1e-3 * max(1, abs(one[step])) for step in one), key
    counts = [metrics(tmp_path / "one", f"train/{source}/diffusion_count") for source in ("a", "b")]
    assert [list(steps.values()) for steps in counts] == [[3.0] * 4, [1.0] * 4]  # their weights, in each step
    assert metrics(tmp_path / "one", "val/caption_loss")
    assert not metrics(tmp_path / "one", "val/a/caption_loss")


def test_epochs_end_a_run(launch, stage1, tiny_components, sample_photos, tmp_path):
    done = launch(
        "train_stage2.sh", "log_every=1", "val_pictures=0",
        CONFIG=TINY2, dataset_path=sample_photos, val_dataset_path=sample_photos,
        qwen_model=tiny_components / "qwen", diffusion_model_path=stage1 / "final", output_dir=tmp_path,
        epochs=1, batch_size=4, total_steps=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pairs = len(json.loads((sample_photos / "captions.json").read_text()))
    assert max(metrics(tmp_path, "train/loss")) == -(-pairs // 4)
