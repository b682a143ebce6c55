"""Bases of an adapter that have moved: every command that loads one names the option for their place, and takes it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.models import new_captioner, new_stage1
from vlv import VLVCaptioner
from vlv.cli import demo, export_checkpoint, launch, serve
from vlv.cli.captioner import load_captioner
from vlv.cli.checks import check_call
from vlv.config import CaptionConfig, DemoConfig, ServeConfig
from vlv.models.from_stage1 import preview_autoencoder
from vlv.models.lora import LoraSettings, is_lora
from vlv.settings import load_config

pytest.importorskip("peft")

BASES = {
    "stable_diffusion_model_path": "stable-diffusion",
    "florence2_model_path": "florence2",
    "qwen_model": "qwen",
}


@pytest.fixture(scope="module")
def place(tiny_components, tmp_path_factory):
    """An adapter of LoRA, one without, what the first captions, and the bases of both, which have moved."""
    root = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny_components, root / "bases")
    torch.manual_seed(0)
    new_stage1(root / "bases").save_pretrained(root / "stage1")
    lora = new_captioner(root / "stage1", root / "bases/qwen", trained=["mlp", "llm"], lora=LoraSettings(4, 8.0))
    with torch.no_grad():
        for name, value in lora.named_parameters():
            if is_lora(name):
                value.normal_(std=0.3)
    lora.save_pretrained(root / "final")
    new_captioner(root / "stage1", root / "bases/qwen").save_pretrained(root / "adapter", adapter=True)
    shutil.move(root / "bases", root / "elsewhere")
    return root


@pytest.fixture
def moved(place):
    """The options that say where the bases lie now, as a call has them."""
    return [f"{option}={place / 'elsewhere' / folder}" for option, folder in BASES.items()]


@pytest.fixture(scope="module")
def expected(place, sample_photos):
    found = VLVCaptioner.from_pretrained(
        place / "final",
        stable_diffusion=str(place / "elsewhere/stable-diffusion"),
        florence2=str(place / "elsewhere/florence2"),
        language_model=str(place / "elsewhere/qwen"),
    )
    names = sorted(path.name for path in sample_photos.glob("*.jpg"))
    return dict(zip(names, found.caption([sample_photos / name for name in names], 1, 8), strict=True))


def refused(main, arguments, capsys):
    """What a call that cannot work prints, in its one line."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("option", BASES)
@pytest.mark.parametrize("command", ["caption", "serve", "demo", "export"])
def test_every_command_names_an_option_that_it_has(place, moved, sample_photos, command, option, capsys, monkeypatch):
    others = [item for item in moved if not item.startswith(option)]
    folder = str(place / "final")
    for package_check in (serve, demo):
        monkeypatch.setattr(package_check, "require_packages", lambda *_: None)
    main, call = {
        "caption": (launch.main, ["caption", str(sample_photos), f"ckpt_dir={folder}"]),
        "serve": (serve.main, [folder, "port=8765"]),
        "demo": (demo.main, [folder, "port=8765"]),
        "export": (export_checkpoint.main, [folder, str(place / "new")]),
    }[command]
    line = refused(main, [*call, *others], capsys)
    assert line.endswith(
        f"{folder} was trained on {place / 'bases' / BASES[option]}, which is not there any more: "
        f"set {option} to where it lies now"
    )
    kind = {
        "caption": CaptionConfig,
        "serve": ServeConfig,
        "demo": DemoConfig,
        "export": export_checkpoint.ExportConfig,
    }
    given = ["source=a", "destination=b"] if command == "export" else [f"ckpt_dir={folder}"]
    assert load_config(kind[command], None, [*given, *moved]).bases() == {
        "stable_diffusion": str(place / "elsewhere/stable-diffusion"),
        "florence2": str(place / "elsewhere/florence2"),
        "language_model": str(place / "elsewhere/qwen"),
    }


def test_captions_with_the_options_are_the_adapters(place, moved, sample_photos, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch.main(["caption", str(sample_photos), f"ckpt_dir={place / 'final'}", "output_path=out.json", "num_beams=1",
                 "max_new_tokens=8", "precision=fp32", "num_workers=0", *moved])  # fmt: skip
    assert json.loads((tmp_path / "out.json").read_text()) == expected


@pytest.mark.parametrize("kind", [ServeConfig, DemoConfig])
def test_a_command_that_stays_up_loads_it_with_the_options(place, moved, sample_photos, expected, kind):
    config = load_config(kind, None, [f"ckpt_dir={place / 'final'}", *moved])
    captioner = load_captioner(config.ckpt_dir, "fp32", None, **config.bases())
    name = next(iter(expected))
    assert captioner.caption([sample_photos / name], 1, 8) == [expected[name]]


def test_the_merge_takes_the_options_and_needs_none_afterwards(place, moved, sample_photos, expected, tmp_path):
    export_checkpoint.main([str(place / "final"), str(tmp_path / "merged"), *moved])
    captioner = VLVCaptioner.from_pretrained(tmp_path / "merged")
    assert captioner.caption([sample_photos / name for name in expected], 1, 8) == list(expected.values())


def test_an_adapter_is_exported_as_a_file_by_the_former_names_too(place, tmp_path):
    names = ("stable_diffusion", "florence2", "language_model")
    former = [f"{name}={place / 'elsewhere' / folder}" for name, folder in zip(names, BASES.values(), strict=True)]
    export_checkpoint.main([str(place / "adapter"), str(tmp_path / "out.safetensors"), *former])
    assert any("mlp" in name for name in load_file(tmp_path / "out.safetensors"))


def test_another_language_model_is_refused(place, moved, tmp_path):
    shutil.copytree(place / "elsewhere/qwen", tmp_path / "qwen")
    config = json.loads((tmp_path / "qwen/config.json").read_text())
    (tmp_path / "qwen/config.json").write_text(json.dumps({**config, "rms_norm_eps": 1.0}))
    bases = {
        "stable_diffusion": str(place / "elsewhere/stable-diffusion"),
        "florence2": str(place / "elsewhere/florence2"),
    }
    with pytest.raises(ValueError, match=r"qwen_model in .* is not the one that the checkpoint was trained with"):
        VLVCaptioner.from_pretrained(place / "final", **bases, language_model=str(tmp_path / "qwen"))
    (tmp_path / "qwen/config.json").unlink()
    call = dict(item.split("=", 1) for item in moved) | {"qwen_model": str(tmp_path / "qwen")}
    with pytest.raises(ValueError, match=r"qwen_model=.* holds no config\.json: it is no language model"):
        check_call(CaptionConfig(ckpt_dir=str(place / "final"), **call))


def test_a_preview_with_a_captioners_own_weights_finds_its_language_model(place, tmp_path):
    shutil.copytree(place / "final", tmp_path / "final")
    config = json.loads((tmp_path / "final/config.json").read_text())
    config["origin"]["draws_with_own_weights"] = True
    (tmp_path / "final/config.json").write_text(json.dumps(config))
    found = [str(place / "elsewhere" / folder) for folder in BASES.values()]
    model = preview_autoencoder(tmp_path / "final", None, found[0], found[1], language_model=found[2])
    assert model.encoder.num_queries == 12


def test_vllm_looks_for_it_where_training_found_it(place, moved, sample_photos, monkeypatch):
    monkeypatch.setattr("vlv.cli.engine_checks.find_spec", lambda name: name)
    call = dict(item.split("=", 1) for item in moved)
    config = CaptionConfig(
        ckpt_dir=str(place / "adapter"), image_path=str(sample_photos), engine="vllm", num_beams=1, **call
    )
    with pytest.raises(
        ValueError, match=r"qwen_model=.*engine=vllm looks where training found it: vlv export .* WHOLE"
    ):
        check_call(config)


def test_the_former_name_of_the_demos_decoder_is_taken(place):
    decoder = str(place / "elsewhere/stable-diffusion")
    assert load_config(DemoConfig, None, [f"decoder={decoder}"]).stable_diffusion_model_path == decoder
