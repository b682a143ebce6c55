"""Calls of `vlv export gguf`, and of `vlv caption` on what it wrote, that cannot work: one line, exit code 2."""

import pytest

from vlv.checkpoints.schema import GGUF_NAME
from vlv.cli import engine_checks, export_checkpoint
from vlv.config import CaptionConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gguf"], "vlv export gguf needs a captioner and a folder: vlv export gguf SOURCE DESTINATION"),
        (["gguf", "a", "b", "format=q5_1"], "format"),
        (["gguf", "a", "b"], "vlv export gguf format=f16 needs the package gguf: pip install 'vlv[gguf]'"),
        (["gguf", "a", "b", "format=q8_0"], "needs the packages gguf, llama_cpp: pip install 'vlv[gguf]'"),
    ],
)
def test_what_cannot_be_written_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("vlv.extras.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        export_checkpoint.main(arguments)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_holds_something_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vlv.extras.find_spec", lambda name: object())
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(SystemExit) as ended:
        export_checkpoint.main(["gguf", str(tmp_path), str(tmp_path)])
    assert ended.value.code == 2
    assert f"{tmp_path} is there already: name a new folder, or remove it first" in capsys.readouterr().err
    assert (tmp_path / "thesis.doc").exists()


def test_a_folder_for_llama_cpp_asks_for_its_package_and_for_greedy_search(monkeypatch, tmp_path):
    def problem(**settings):
        with pytest.raises(ValueError, match=r"llama[._]cpp") as raised:
            engine_checks.check_engine(CaptionConfig(ckpt_dir=str(tmp_path), **settings))
        return str(raised.value)

    monkeypatch.setattr("vlv.extras.find_spec", lambda name: None)
    engine_checks.check_engine(CaptionConfig(ckpt_dir=str(tmp_path)))  # not such a folder
    (tmp_path / GGUF_NAME).touch()
    assert problem(num_beams=1) == f"ckpt_dir={tmp_path} needs the package llama_cpp: pip install 'vlv[gguf]'"
    monkeypatch.setattr("vlv.extras.find_spec", lambda name: object())
    assert problem(num_beams=4) == "num_beams=4: llama.cpp searches greedily: set num_beams=1"
    engine_checks.check_engine(CaptionConfig(ckpt_dir=str(tmp_path), num_beams=1))
    engine_checks.check_engine(CaptionConfig(ckpt_dir=str(tmp_path), num_beams=4, temperature=0.5))
