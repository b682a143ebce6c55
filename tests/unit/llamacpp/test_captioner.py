"""llama.cpp itself on what is exported: its tokens, its ids, and captions by `vlv caption`."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.unit.llamacpp.test_writer import QWEN, SHAPE, byte_level
from vlv import VLVCaptioner
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.inspection import describe_checkpoint
from vlv.checkpoints.schema import GGUF_NAME
from vlv.inference.identity import checkpoint_identity
from vlv.llamacpp import LlamaCppCaptioner, export_gguf
from vlv.llamacpp.language_model import LlamaCppModel
from vlv.llamacpp.library import llama_cpp
from vlv.llamacpp.writer import write_gguf
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

pytest.importorskip("llama_cpp")
SOURCE = assets_folder() / "tiny" / "trained" / "captioner"
SCENES = 120


@pytest.fixture(scope="module")
def plain():
    return VLVCaptioner.from_pretrained(SOURCE)


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "f16"
    export_gguf(plain, folder, "f16")
    return folder


@pytest.fixture(scope="module")
def pixels(plain):
    pictures = [render(make_scene("test", number), number) for number in range(SCENES)]
    return torch.cat([batch["encoder_pixels"] for batch in plain.image_processor.batches(pictures, 8)])


@pytest.fixture(scope="module")
def captioner(folder):
    return LlamaCppCaptioner.from_pretrained(folder)


def test_ids_are_the_captioners_own(plain, captioner, pixels):
    for start in range(0, SCENES, 8):
        part = pixels[start : start + 8]
        assert captioner.generate_ids(part).tolist() == plain.generate_ids(part, num_beams=1).tolist()


def test_a_caption_does_not_depend_on_its_batch(captioner, pixels):
    together = captioner.caption_pixels(pixels[:12])
    assert together == [caption for one in pixels[:12] for caption in captioner.caption_pixels(one[None])]
    assert len(set(together)) == 12


def test_sampled_captions_are_the_captioners_own(plain, captioner, pixels):
    seeds = [[number, number + 50] for number in range(6)]
    sampled = captioner.sample_pixels(pixels[:6], seeds, 0.5)
    assert sampled == plain.sample_pixels(pixels[:6], seeds, 0.5)
    assert any(first != second for first, second in sampled)


def test_captions_end_where_they_are_told_to(plain, captioner, pixels):
    cut = captioner.caption_pixels(pixels[:4], 1, 20, True)
    assert cut == plain.caption_pixels(pixels[:4], 1, 20, True)
    assert captioner.generate_ids(pixels[:4], max_new_tokens=5).shape == (4, 5)


def tokenized(path, text):
    api = llama_cpp()
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(os.fsencode(path), params)
    room, data = (api.llama_token * 512)(), text.encode()
    count = api.llama_tokenize(api.llama_model_get_vocab(model), data, len(data), room, 512, True, True)
    api.llama_model_free(model)
    return list(room[:count])


@pytest.mark.parametrize("kind", ["qwen2", "gpt-2", "smollm"])
def test_llama_cpp_cuts_texts_into_the_same_tokens(kind, tmp_path):
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer = {
        "qwen2": lambda: AutoTokenizer.from_pretrained(QWEN),
        "gpt-2": lambda: byte_level(parts[1]),
        "smollm": lambda: byte_level(pre_tokenizers.Sequence(parts)),
    }[kind]()
    model = LlamaForCausalLM(LlamaConfig(vocab_size=576, **SHAPE))
    write_gguf(model, tokenizer, tmp_path / "model.gguf", 0)
    special = tokenizer.eos_token
    for text in (
        "A black background with four shapes. At the top is a small brown house.",
        "the boats are red,  and  12 of 4096 aren't: I'll say\n\n so!\t",
        "Zürich, 東京, naïve 🚤 ½",
        f"a red house{special}the boats",
        " leading and trailing ",
    ):
        assert tokenized(tmp_path / "model.gguf", text) == tokenizer(text)["input_ids"], text


def test_a_llamas_ids_are_transformers_own(tmp_path):
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=576, initializer_range=0.2, tie_word_embeddings=False, **SHAPE)
    model = LlamaForCausalLM(config).half().float()  # as the file has it
    write_gguf(model, AutoTokenizer.from_pretrained(QWEN), tmp_path / "model.gguf", 575)
    rows = torch.randn(5, 7, 64)
    found = LlamaCppModel(tmp_path / "model.gguf").generate(rows, 24, 575, lambda scores: scores.argmax(1))
    mask = torch.ones(5, 7, dtype=torch.long)
    theirs = model.generate(
        inputs_embeds=rows, attention_mask=mask, max_new_tokens=24, do_sample=False, eos_token_id=575, pad_token_id=575
    )
    assert found == theirs.tolist()
    assert len({tuple(ids) for ids in found}) == 5


@pytest.mark.parametrize(("number_format", "most"), [("q8_0", 0.7), ("q4_k_m", 0.6)])
def test_quantised_language_models_are_smaller_and_still_caption(plain, folder, pixels, number_format, most, tmp_path):
    exported = export_gguf(plain, tmp_path / "small", number_format)
    assert exported.language_model < most * (folder / GGUF_NAME).stat().st_size
    assert exported.formats["F32"] == 16
    captions = LlamaCppCaptioner.from_pretrained(tmp_path / "small").caption_pixels(pixels[:16])
    same = sum(one == other for one, other in zip(captions, plain.caption_pixels(pixels[:16], 1), strict=True))
    assert same >= 12


def test_a_folder_for_llama_cpp_is_told_from_others(folder, captioner, pixels, tmp_path):
    with pytest.raises(CheckpointError, match=r"is for llama.cpp: vlv caption reads it"):
        VLVCaptioner.from_pretrained(folder)
    assert describe_checkpoint(folder)["language model"].startswith("language_model.gguf, for llama.cpp")
    with pytest.raises(ValueError, match=r"num_beams=4: llama.cpp searches greedily"):
        captioner.generate_ids(pixels[:1], num_beams=4)
    with pytest.raises(ValueError, match=r"more than llama.cpp's 256"):
        captioner.llm.generate(torch.zeros(257, 1, captioner.llm.width), 1, 0, lambda scores: scores.argmax(1))
    damaged = shutil.copytree(folder, tmp_path / "copy") / GGUF_NAME
    assert checkpoint_identity(damaged.parent, "fp32") == checkpoint_identity(folder, "fp32") | {
        "checkpoint": str(damaged.parent)
    }
    damaged.write_bytes(damaged.read_bytes()[:5000])
    fingerprints = {checkpoint_identity(one, "fp32")["checkpoint_fingerprint"] for one in (folder, damaged.parent)}
    assert len(fingerprints) == 2  # captions of the one are not gone on with by the other
    with pytest.raises(CheckpointError, match=r"language_model.gguf cannot be loaded by llama-cpp-python"):
        LlamaCppCaptioner.from_pretrained(damaged.parent)


def test_vlv_caption_takes_the_folder(folder, plain, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        render(make_scene("test", number), number).save(pictures / f"{number}.png")
    output = tmp_path / "captions.json"
    call = [sys.executable, "-m", "vlv", "caption", str(pictures), f"ckpt_dir={folder}", f"output_path={output}"]
    refused = subprocess.run([*call, "num_beams=4"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "num_beams=4: llama.cpp searches greedily: set num_beams=1" in refused.stderr
    expected = plain.caption([str(path) for path in sorted(pictures.glob("*.png"))], num_beams=1)
    for more in ([], ["num_gpus=2", "accelerate_config=configs/accelerate/cpu.yaml"]):
        subprocess.run([*call, "num_beams=1", "batch_size=2", *more], check=True)
        assert list(json.loads(output.read_text()).values()) == expected
        output.unlink()
