import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.models import new_captioner, new_stage1
from vlv.cli import doctor
from vlv.cli.doctor import main
from vlv.resources import recipes_folder


@pytest.fixture
def there(tiny_components, tmp_path, monkeypatch):
    """A folder with a stage 1 and a captioner."""
    monkeypatch.chdir(tmp_path)
    new_stage1(tiny_components).save_pretrained(tmp_path / "outputs" / "One" / "final")
    captioner = new_captioner(tmp_path / "outputs" / "One" / "final", tiny_components / "qwen")
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
