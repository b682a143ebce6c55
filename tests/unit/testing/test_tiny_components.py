import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, Florence2ForConditionalGeneration

from scripts.make_tiny_components import main, read_sentences
from vlv.encoders.florence2 import TASK_PROMPT, load_florence2
from vlv.encoders.florence2_layout import convert_config, is_original_config, original_config, rename_original

TEXT = "Émile's café — 3 croissants,  two  spaces\nand a line ☕️ 你好"


def test_libraries_load_every_folder_without_a_missing_weight(tiny_components):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_components / "stable-diffusion")
    assert pipeline.scheduler.config.clip_sample is False
    assert pipeline.scheduler.config.steps_offset == 1
    for folder, kind in (("florence2", Florence2ForConditionalGeneration), ("qwen", AutoModelForCausalLM)):
        _, info = kind.from_pretrained(tiny_components / folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]


def test_a_prediction_type_that_a_decoder_does_not_have_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "decoder=stable-diffusion-1.5", "prediction_type=v_prediction"])
    assert (
        "prediction_type=v_prediction cannot be used: it is for decoder=stable-diffusion alone"
        in capsys.readouterr().err
    )


def test_language_models_tokenizer_gives_any_text_back(tiny_components):
    tokenizer = AutoTokenizer.from_pretrained(tiny_components / "qwen")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]


def test_florence2s_tokenizer_has_barts_ids(tiny_components):
    tokenizer = AutoTokenizer.from_pretrained(tiny_components / "florence2")
    ids = tokenizer(TASK_PROMPT)["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    assert tokenizer.pad_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == TASK_PROMPT


def test_clips_tokenizer_pads_to_77(tiny_components):
    tokenizer = AutoTokenizer.from_pretrained(tiny_components / "stable-diffusion" / "tokenizer")
    ids = tokenizer("A Red house", padding="max_length", truncation=True)["input_ids"]
    assert len(ids) == 77
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer("a red house")["input_ids"] == ids[: len(tokenizer("a red house")["input_ids"])]


def test_original_layout_computes_what_the_native_one_does(tmp_path):
    for layout in ("native", "original"):
        main([str(tmp_path / layout), f"florence2_layout={layout}"])
    config = json.loads((tmp_path / "original" / "florence2" / "config.json").read_text())
    assert is_original_config(config)
    models = [load_florence2(tmp_path / layout / "florence2", torch.float32) for layout in ("native", "original")]
    for (name, value), (other_name, other) in zip(
        models[0].eval().named_parameters(), models[1].eval().named_parameters(), strict=True
    ):
        assert name == other_name
        assert torch.equal(value, other), name
    pixels = torch.randn(1, 3, 128, 128)
    features = [model.get_image_features(pixels).pooler_output for model in models]
    assert torch.equal(*features)
    again = original_config(convert_config(config))
    assert json.loads(json.dumps(again)) == config


def test_lm_head_is_dropped():
    assert rename_original("language_model.lm_head.weight") is None
    assert rename_original("language_model.final_logits_bias") is None


def test_same_seed_same_weights(tmp_path, tiny_components):
    main([str(tmp_path / "a"), "seed=3"])
    main([str(tmp_path / "b"), "seed=3"])
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file.name


def test_captions_of_any_format(tmp_path):
    (tmp_path / "c.json").write_text('{"a.jpg": "one", "b.jpg": "two"}')
    (tmp_path / "c.jsonl").write_text('{"file_name": "a.jpg", "caption": "one"}\n')
    (tmp_path / "c.txt").write_text("one\n\ntwo\nthree\n")
    assert [len(read_sentences(tmp_path / name)) - 1 for name in ("c.json", "c.jsonl", "c.txt")] == [2, 1, 3]


@pytest.mark.parametrize("text", [None, "{}"])
def test_bad_captions_are_one_line_and_exit_2(tmp_path, capsys, text):
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "out"), f"captions={path}"])
    assert stopped.value.code == 2
    assert str(path) in capsys.readouterr().err
