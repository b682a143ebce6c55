import pytest

from vlv.data.captions import CaptionTokenizer, pad_captions
from vlv.data.sample import BadSample

EOS, PAD = 99, 98


class Words:
    """One id a word; like transformers' tokenizers it is called with a text and options."""

    pad_token_id = PAD

    def __call__(self, text, *, add_special_tokens, **options):
        assert not add_special_tokens
        return {"input_ids": [len(word) for word in text.split()]}


def test_eos_after_each_whole_caption():
    tokenize = CaptionTokenizer(Words(), 3, supervise_eos=True, eos_token_id=EOS)
    assert tokenize("a bb") == [1, 2, EOS]
    assert tokenize("a bb ccc") == [1, 2, 3, EOS]
    assert tokenize("a bb ccc dddd") == [1, 2, 3]


def test_without_eos():
    tokenize = CaptionTokenizer(Words(), 3, supervise_eos=False, eos_token_id=EOS)
    assert tokenize("a bb") == [1, 2]
    assert tokenize("a bb ccc dddd") == [1, 2, 3]


@pytest.mark.parametrize("caption", ["", " \n\t"])
def test_empty_captions_are_bad(caption):
    with pytest.raises(BadSample, match="caption is empty"):
        CaptionTokenizer(Words(), 3, True, EOS)(caption)


def test_a_lone_surrogate_is_a_bad_caption():
    with pytest.raises(BadSample, match="no valid text: a lone surrogate at character 2"):
        CaptionTokenizer(Words(), 3, True, EOS)("a \ud800")


def test_pad_token_falls_back_to_eos():
    assert CaptionTokenizer(Words(), 3, True, EOS).pad_token_id == PAD
    assert CaptionTokenizer(lambda text, **_: {"input_ids": [1]}, 3, True, EOS).pad_token_id == EOS


def test_padding():
    batch = pad_captions([[1, 2, 3], [], [4, PAD]], PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [PAD, PAD, PAD], [4, PAD, PAD]]
    assert batch["labels"].tolist() == [[1, 2, 3], [-100] * 3, [4, PAD, -100]]


def test_padding_of_nothing_keeps_a_column():
    assert pad_captions([[], []], PAD)["labels"].tolist() == [[-100], [-100]]
    assert pad_captions([[7]], PAD)["labels"].tolist() == [[7]]


def test_end_token_written_in_a_caption_is_text():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(vocab={chr(n): n for n in range(33, 127)} | {"<e>": 200}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    tokenizer.add_special_tokens({"eos_token": "<e>"})
    eos = tokenizer.eos_token_id
    assert tokenizer("a <e>")["input_ids"][-1] == eos
    assert eos not in CaptionTokenizer(tokenizer, 20, False, eos)("a <e>")
