"""A tiny vision-language model on disk whose answer is known: each character says which one follows."""

from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SAID = "A clouds"  # no character twice
IMAGE_TOKENS = 4
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}:{% endif %}"
)


def write_teacher(folder):
    """A LLaVA with one token for each byte; its one layer adds nothing, so that the last token alone decides."""
    special = ["<pad>", "</s>", "<image>"]
    vocabulary = {token: at for at, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *special])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", additional_special_tokens=["<image>"]
    )
    size = len(vocabulary)
    side = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**{**side, "num_hidden_layers": 2}, image_size=28, patch_size=14),
        text_config=LlamaConfig(
            **{**side, "hidden_size": size + size % 2},
            vocab_size=size,
            eos_token_id=vocabulary["</s>"],
            pad_token_id=vocabulary["<pad>"],
            bos_token_id=None,
        ),
        image_token_index=vocabulary["<image>"],
        image_seq_length=IMAGE_TOKENS,
    )
    model = LlavaForConditionalGeneration(config)
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if "language_model" in name and ("o_proj" in name or "down_proj" in name):
            weight.data.zero_()
    embeddings, head = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    embeddings.zero_().fill_diagonal_(1.0)
    head.zero_()
    said = [":", *SAID.replace(" ", "\u0120"), "</s>"]
    for now, following in pairwise(said):
        head[vocabulary[following], vocabulary[now]] = 10.0
    model.generation_config.eos_token_id = vocabulary["</s>"]
    model.generation_config.pad_token_id = vocabulary["<pad>"]
    model.save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        image_processor=processor,
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
