import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.models import new_captioner, new_stage1
from vlv.checkpoints.folder_check import State
from vlv.cli import doctor
from vlv.cli.doctor import main
from vlv.cli.download import COMPONENTS, import_command
from vlv.models.lora import LoraSettings
from vlv.resources import recipes_folder


@pytest.fixture
def there(tiny_components, tmp_path, monkeypatch):
    """A folder with a stage 1 and a captioner."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_components, tmp_path, dirs_exist_ok=True)
    new_stage1(tmp_path).save_pretrained(tmp_path / "outputs" / "One" / "final")
    captioner = new_captioner(tmp_path / "outputs" / "One" / "final", tmp_path / "qwen")
    captioner.save_pretrained(tmp_path / "outputs" / "Two" / "final")
    return tmp_path


def test_a_new_folder_is_told_where_to_begin(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["hub=false"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("next: vlv quickstart")
    assert len(lines) <= 24, "one screen"
    assert any(line.startswith("note  sd") and line.endswith("vlv download sd") for line in lines)


def test_finished_models_are_found_and_used(there, capsys):
    main(["hub=false"])
    shown = capsys.readouterr().out
    assert "ok    stage1" in shown
    assert "next: vlv caption photos ckpt_dir=outputs/Two/final" in shown
    shutil.rmtree("outputs/Two")
    main(["hub=false"])
    assert "next: vlv stage2 diffusion_model_path=outputs/One/final" in capsys.readouterr().out


@pytest.fixture
def adapter(there):
    """An adapter whose three bases are folders of its own, as LoRA leaves one."""
    pytest.importorskip("peft")
    shutil.rmtree(there / "outputs" / "Two")
    captioner = new_captioner(
        there / "outputs" / "One" / "final", there / "qwen", trained=["mlp", "llm"], lora=LoraSettings(4, 8.0)
    )
    captioner.save_pretrained(there / "outputs" / "Two" / "final")
    return there / "outputs" / "Two" / "final"


def broken(capsys):
    """What is shown of a folder in which something is broken."""
    with pytest.raises(SystemExit) as stopped:
        main(["hub=false"])
    assert stopped.value.code == 1
    return capsys.readouterr().out


def cut(path):
    """Take the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.safetensors", "lora/adapter_model.safetensors"])
def test_weights_that_were_cut_are_broken(adapter, capsys, name):
    main(["hub=false"])
    assert "ok    stage2" in capsys.readouterr().out
    cut(adapter / name)
    shown = broken(capsys)
    assert f"BAD   stage2     outputs/Two/final: damaged: {name} (its length is not what its header says)" in shown
    assert "next: copy it again, or train or import it once more" in shown


def test_a_stage1_that_was_cut_is_broken(there, capsys):
    cut(there / "outputs" / "One" / "final" / "model.safetensors")
    assert "BAD   stage1     outputs/One/final: damaged: model.safetensors" in broken(capsys)


def test_a_base_that_has_gone_or_is_another_is_said_with_the_command_that_takes_it(adapter, there, capsys):
    weights = there / "qwen" / "model.safetensors"
    whole = weights.read_bytes()
    cut(weights)
    assert "language_model in " in (shown := broken(capsys))
    assert "their weights differ; set qwen_model to that one" in shown
    weights.write_bytes(whole)
    shutil.move(there / "qwen", there / "moved")
    shown = broken(capsys)
    assert f"was trained on {there / 'qwen'}, which is not there any more: set qwen_model to where it lies now" in shown
    assert "next: vlv caption photos ckpt_dir=outputs/Two/final qwen_model=FOLDER" in shown
    shutil.move(there / "stable-diffusion", there / "sd")
    shown = broken(capsys)
    assert "BAD   stage1" in shown
    assert "next: vlv stage2 diffusion_model_path=outputs/One/final stable_diffusion_model_path=FOLDER" in shown
    shutil.rmtree(there / "outputs" / "One")
    assert "ckpt_dir=outputs/Two/final qwen_model=FOLDER stable_diffusion_model_path=FOLDER" in broken(capsys)


def test_after_the_download_the_released_captioner_is_imported_first(there, capsys, monkeypatch):
    captioner = there / "outputs" / "Two" / "final"
    shutil.rmtree(there / "outputs" / "One")
    kept = shutil.move(captioner, there / "kept")
    monkeypatch.setattr("vlv.cli.download.check", lambda component, folder: State())
    pretrained = there / "pretrained_checkpoints"
    for part in ("sd", "florence2", "captioner"):
        (pretrained / COMPONENTS[part].folder).mkdir(parents=True)
    main(["hub=false"])
    assert "next: vlv download qwen, on which the released captioner is imported" in capsys.readouterr().out
    (pretrained / COMPONENTS["qwen"].folder).mkdir()
    main(["hub=false"])
    printed = import_command(Path("pretrained_checkpoints") / COMPONENTS["captioner"].folder)  # by `vlv download` too
    assert (
        f"next: {printed} (to caption), or vlv stage1 train_dataset_path=images (to train)" in capsys.readouterr().out
    )
    shutil.move(kept, pretrained / "VLV-captioner")
    main(["hub=false"])
    assert "next: vlv caption photos ckpt_dir=pretrained_checkpoints/VLV-captioner" in capsys.readouterr().out
    for name in ("VLV-captioner", COMPONENTS["captioner"].folder):
        shutil.rmtree(pretrained / name)
    main(["hub=false"])
    assert "next: vlv stage1 train_dataset_path=images (vlv stage1 --help)" in capsys.readouterr().out


def test_many_checkpoints_stay_on_one_screen_and_none_that_is_broken_is_lost(there, capsys):
    final = there / "outputs" / "Two" / "final"
    for number in range(30):
        (copy := there / "outputs" / f"Run{number}").mkdir()
        (copy / "final").symlink_to(final)
    main(["hub=false"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24, "one screen"
    assert any("25 more checkpoints, 0 of them broken" in line for line in lines)
    shutil.copytree(final, there / "outputs" / "Zero" / "final")
    cut(there / "outputs" / "Zero" / "final" / "model.safetensors")
    assert "BAD   stage2     outputs/Zero/final" in broken(capsys)
    cut(final / "model.safetensors")
    assert "BAD   others" in (shown := broken(capsys))
    assert len(shown.splitlines()) <= 24


def test_extras_that_are_installed_are_compared_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tested = {name: number for name, number in doctor._tested().items() if name != "ray"}
    monkeypatch.setattr(doctor, "_tested", lambda: tested)
    installed = {"peft": tested["peft"], "torchao": "0.1+cpu", "ray": "9.9"}

    def found(name):
        if name in doctor._EXTRAS and name not in installed:
            raise PackageNotFoundError
        return installed.get(name) or version(name)

    monkeypatch.setattr(doctor, "version", found)
    main(["hub=false"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line[6:].startswith("extras"))
    assert line.startswith("note  extras")
    assert f"other than tested: torchao 0.1 (tested: {tested['torchao']}); as tested: peft" in line
    assert "without a tested version: ray 9.9" in line
    assert "pip install -c configs/tested_versions.txt 'vlv[EXTRA]'" in line
    installed["torchao"] = tested["torchao"]
    main(["hub=false"])
    assert "ok    extras     as tested: peft, torchao; without" in capsys.readouterr().out
    installed.clear()
    main(["hub=false"])
    assert "extras" not in capsys.readouterr().out


def test_what_is_broken_is_said_and_fails(there, capsys):
    (there / "outputs" / "Two" / "final" / "model.safetensors").unlink()
    (there / "pretrained_checkpoints" / "Florence-2-large").mkdir(parents=True)
    with pytest.raises(SystemExit) as stopped:
        main(["hub=false"])
    assert stopped.value.code == 1
    shown = capsys.readouterr().out
    assert "BAD   stage2" in shown
    assert "BAD   florence2" in shown
    assert "next: vlv download florence2" in shown


def test_other_versions_than_tested_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "version", lambda name: "99.0" if name == "diffusers" else version(name))
    main(["hub=false"])
    shown = capsys.readouterr().out
    assert "diffusers 99.0 (tested: " in shown
    assert "pip install -c configs/tested_versions.txt" in shown


def test_a_hub_that_is_away_is_a_note(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    main([])
    assert "note  hub" in capsys.readouterr().out


def test_the_tested_versions_name_every_package_that_is_needed():
    tested = (recipes_folder() / "tested_versions.txt").read_text().lower()
    for name in doctor._NEEDED:
        assert f"\n{name.lower().replace('_', '-')}==" in tested.replace("_", "-")


def test_the_command_ends_in_its_own_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vlv", "doctor", "hub=false"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "next: " in done.stdout
