"""What is in a GGUF file, read back by the package gguf; llama.cpp itself is in test_captioner.py."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from vlv.llamacpp.writer import require_convertible, write_gguf
from vlv.resources import assets_folder

gguf = pytest.importorskip("gguf")
QWEN = assets_folder() / "tiny" / "qwen"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(QWEN)


def byte_level(pre_tokenizer, model=models.BPE):
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    if model is models.BPE:
        tokenizer.train_from_iterator(["a red house left of 12 boats", "the boats are red"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def written(model, tokenizer, path):
    write_gguf(model, tokenizer, path, eos_token_id=0)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def test_a_qwen2_has_its_shape_its_tokens_and_its_weights_rounded_once(tokenizer, tmp_path):
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=600, tie_word_embeddings=False, rms_norm_eps=1e-5, **SHAPE)
    model = Qwen2ForCausalLM(config)
    fields, tensors = written(model, tokenizer, tmp_path / "model.gguf")
    wanted = {
        "general.architecture": "qwen2",
        "general.file_type": 1,
        "qwen2.block_count": 2,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.rope.freq_base": 10_000.0,
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 0,
    }
    assert {name: fields[name] for name in wanted} == wanted
    assert fields["qwen2.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[-1] == "[PAD599]"
    assert (types[0], types[5], types[-1]) == (3, 1, 5)  # control, normal, unused
    own = model.state_dict()
    assert len(tensors) == len(own)
    for theirs, ours, dtype in (
        ("token_embd.weight", "model.embed_tokens.weight", torch.float16),
        ("output.weight", "lm_head.weight", torch.float16),
        ("blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", torch.float16),
        ("blk.1.attn_k.bias", "model.layers.1.self_attn.k_proj.bias", torch.float32),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", torch.float16),
        ("output_norm.weight", "model.norm.weight", torch.float32),
    ):
        assert np.array_equal(tensors[theirs], own[ours].to(dtype).numpy())


def test_a_tied_head_is_not_written_twice(tokenizer, tmp_path):
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=600, tie_word_embeddings=True, **SHAPE))
    _, tensors = written(model, tokenizer, tmp_path / "model.gguf")
    assert "output.weight" not in tensors
    assert "token_embd.weight" in tensors


def test_a_llamas_queries_and_keys_are_rotated_in_pairs_to_the_same_scores(tokenizer, tmp_path):
    """Scores of one head at two positions: as transformers rotates its weights, and as llama.cpp the written ones."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=600, **SHAPE)
    model = LlamaForCausalLM(config)
    fields, tensors = written(model, tokenizer, tmp_path / "model.gguf")
    assert fields["llama.rope.dimension_count"] == 16
    width, state = 16, torch.randn(64)
    attention = model.model.layers[0].self_attn
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2) / width)

    def halves(vector, position):
        first, second = vector[: width // 2], vector[width // 2 :]
        cos, sin = (position * frequencies).cos(), (position * frequencies).sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin])

    def pairs(vector, position):
        turned = torch.view_as_complex(vector.view(-1, 2)) * torch.polar(torch.ones(8), position * frequencies)
        return torch.view_as_real(turned).reshape(-1)

    ours = [(layer.weight @ state)[width : 2 * width] for layer in (attention.q_proj, attention.k_proj)]
    theirs = [
        (torch.from_numpy(tensors[f"blk.0.attn_{name}.weight"]).float() @ state)[width : 2 * width] for name in "qk"
    ]
    expected = halves(ours[0], 9) @ halves(ours[1], 2)
    assert torch.allclose(pairs(theirs[0], 9) @ pairs(theirs[1], 2), expected, atol=1e-3)
    assert not torch.allclose(halves(theirs[0], 9) @ halves(theirs[1], 2), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            "smollm",
        ),
    ],
)
def test_pre_tokenizers_have_llama_cpps_names(pre_tokenizer, name, tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=320, **SHAPE))
    fields, _ = written(model, byte_level(pre_tokenizer), tmp_path / "model.gguf")
    assert fields["tokenizer.ggml.pre"] == name
    assert " " in fields["tokenizer.ggml.merges"][0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(), "a language model of type gpt2 cannot be written as GGUF: llama and qwen2 can"),
        (
            LlamaConfig(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            "rope_type=linear cannot be written as GGUF: default alone can",
        ),
        (Qwen2Config(use_sliding_window=True), "use_sliding_window=True cannot be written as GGUF"),
        (LlamaConfig(hidden_act="gelu"), "hidden_act=gelu cannot be written as GGUF: silu alone can"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        require_convertible(config)


def test_tokenizers_without_a_gguf_form_are_refused(tokenizer, tmp_path):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=320, **SHAPE))
    for other, message in (
        (byte_level(pre_tokenizers.Whitespace()), "with the pre-tokenizer Whitespace cannot be written as GGUF"),
        (byte_level(pre_tokenizers.Whitespace(), models.WordLevel), "a tokenizer of type WordLevel cannot be written"),
        (tokenizer, "the tokenizer has 558 tokens for 320 rows of the embedding"),
    ):
        with pytest.raises(ValueError, match=message):
            write_gguf(model, other, tmp_path / "model.gguf", 0)
    assert not (tmp_path / "model.gguf").exists()


def test_weights_that_f16_cannot_hold_are_refused(tokenizer, tmp_path):
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=600, **SHAPE))
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"blk.1.ffn_up.weight has values beyond f16's 65504"):
        write_gguf(model, tokenizer, tmp_path / "model.gguf", 0)
