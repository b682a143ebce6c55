import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from vlv.losses import IGNORED, caption_loss
from vlv.models import language_head
from vlv.models.language_head import PLAIN_HEADS, caption_losses

WORDS, LENGTH, PREFIX = 97, 7, 3
SIZES = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


def language_model(model_type):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES)).eval()  # without dropout


def inputs_of(llm):
    torch.manual_seed(1)
    embeds = torch.randn(2, PREFIX + LENGTH, 16, requires_grad=True)
    mask, labels = torch.ones(2, PREFIX + LENGTH, dtype=torch.long), torch.randint(1, WORDS, (2, LENGTH))
    mask[1, -2:], labels[1, -2:] = 0, IGNORED  # the second caption is shorter
    return embeds, mask, labels


def gradients(llm, losses, embeds):
    (losses * torch.tensor([1.0, 0.3])).sum().backward()  # another weight for each sample
    found = [embeds.grad, *(parameter.grad for parameter in llm.parameters())]
    llm.zero_grad()
    embeds.grad = None
    return found


@pytest.mark.parametrize("model_type", [*sorted(PLAIN_HEADS), "granite", "gemma2", "gpt2", "opt"])
def test_losses_and_gradients_are_those_of_the_model_s_own_masked_logits(model_type, monkeypatch):
    llm = language_model(model_type)
    embeds, mask, labels = inputs_of(llm)
    logits = llm(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
    expected = caption_loss(logits[:, PREFIX - 1 : -1], labels)
    expected_gradients = gradients(llm, expected, embeds)
    for at_once in (2**29, 2 * WORDS * 2, 1):  # whole, two positions, one position
        monkeypatch.setattr(language_head, "LOGITS_AT_ONCE", at_once)
        losses = caption_losses(llm, embeds, labels)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        for own, other in zip(gradients(llm, losses, embeds), expected_gradients, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


class _LargestOfWords(TorchDispatchMode):
    """Positions of the largest tensor that has a value for each word."""

    positions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape[-1:] == (WORDS,) and not func.is_view:
            self.positions = max(self.positions, result.numel() // WORDS)
        return result


def test_logits_of_all_positions_never_exist_at_once_in_forward_or_backward(monkeypatch):
    llm = language_model("qwen2")
    llm.lm_head = nn.Linear(16, WORDS, bias=False).requires_grad_(False)  # its own gradient is no tensor of logits
    embeds, _, labels = inputs_of(llm)
    counted = []
    for at_once in (2**29, 2 * WORDS * 2):
        monkeypatch.setattr(language_head, "LOGITS_AT_ONCE", at_once)
        with _LargestOfWords() as largest:
            caption_losses(llm, embeds, labels).sum().backward()
        counted.append(largest.positions)
    assert counted == [2 * LENGTH, 2 * 2]
