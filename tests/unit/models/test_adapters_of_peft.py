"""PEFT's and TRL's calls on a captioner: LoRA in its language model, and a step of supervised fine-tuning."""

import pytest
import torch
from PIL import Image

from tests.models import new_captioner, new_stage1
from vlv import VLVProcessor

peft = pytest.importorskip("peft")


@pytest.fixture
def captioner(tiny_components, tmp_path):
    torch.manual_seed(0)
    new_stage1(tiny_components).save_pretrained(tmp_path / "stage1")
    return new_captioner(tmp_path / "stage1", tiny_components / "qwen", trained=["mlp", "llm"])


@pytest.fixture
def processor(captioner):
    return VLVProcessor(captioner.image_processor, captioner.tokenizer, captioner.num_image_tokens)


@pytest.fixture
def images():
    return [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy")]


LORA = {"r": 4, "target_modules": r"llm\..*\.(q_proj|v_proj)", "init_lora_weights": False}


def test_lora_of_peft_trains_is_saved_and_merged(captioner, processor, images, tmp_path):
    inputs = processor(images=images, text=["a red house", "a lake"], padding_side="right", return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[labels == processor.image_token_id] = -100
    before = captioner(**inputs).logits
    model = peft.get_peft_model(captioner, peft.LoraConfig(**LORA))
    model(**inputs, labels=labels).loss.backward()
    with_gradient = [name for name, value in model.named_parameters() if value.grad is not None]
    assert with_gradient
    assert all("lora_" in name for name in with_gradient)
    adapted = model(**inputs).logits
    assert not torch.allclose(adapted, before, atol=1e-4)
    generated = model.generate(**processor(images=images, return_tensors="pt"), num_beams=1, max_new_tokens=6)
    model.save_pretrained(tmp_path / "adapter")
    assert sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir()) < 200_000
    merged = model.merge_and_unload()
    assert torch.allclose(merged(**inputs).logits, adapted, atol=1e-4)
    again = merged.generate(**processor(images=images, return_tensors="pt"), num_beams=1, max_new_tokens=6)
    assert torch.equal(again, generated)


def test_a_step_of_trl(captioner, processor, images, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    said = ["a red house", "a navy lake at night"]
    content = List({"type": Value("string"), "text": Value("string")})
    messages = List({"role": Value("string"), "content": content})
    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
            "images": [image],
        }
        for image, text in zip(images, said, strict=True)
    ]
    features = Features({"prompt": messages, "completion": messages, "images": List(ImageFeature())})
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, max_length=None, report_to=[],
        learning_rate=1e-2, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=captioner,
        args=arguments,
        processing_class=processor,
        train_dataset=Dataset.from_list(rows, features=features),
        peft_config=peft.LoraConfig(**{**LORA, "init_lora_weights": True}),
    )
    expected = processor(images=images, text=[text + processor.tokenizer.eos_token for text in said],
                         padding_side="right", return_tensors="pt")  # fmt: skip
    labels = expected["input_ids"].masked_fill(expected["attention_mask"] == 0, -100)
    labels[labels == processor.image_token_id] = -100
    with torch.no_grad():
        own = captioner(**expected, labels=labels).loss.item()
    trainer.train()
    logged = next(record["train_loss"] for record in trainer.state.log_history if "train_loss" in record)
    assert logged == pytest.approx(own, rel=1e-3), "TRL's loss is of the caption's tokens alone"
    moved = [value.abs().max().item() for name, value in trainer.model.named_parameters() if "lora_B" in name]
    assert max(moved) > 0
