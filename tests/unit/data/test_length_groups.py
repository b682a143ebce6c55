import pytest
import torch
from torch.testing import assert_close

from tests.models import new_captioner, new_stage1
from vlv.data.captions import pad_captions
from vlv.data.length_groups import group_by_length
from vlv.losses import IGNORED
from vlv.models.objectives import CaptionObjective

PAD = 3  # a caption may hold this token too
STEPS = ([[7, 3], [2, 2, 3], [5] * 6, []], [[1], [4] * 5])  # captions of 2 micro-batches each of 2 and of 1


def micro_batch(captions, first):
    """Pixels, positions and names that tell the rows apart; an empty caption is a sample that cannot be used."""
    rows = range(first, first + len(captions))
    return {
        "encoder_pixels": torch.stack([torch.full((3, 2, 2), row, dtype=torch.uint8) for row in rows]),
        "decoder_pixels": torch.stack([torch.full((2, 4, 1, 1), row, dtype=torch.float16) for row in rows]),  # latents
        "crops": torch.tensor([[row] * 4 for row in rows]),
        "sources": torch.tensor([*rows]),
        "weights": torch.tensor([float(bool(ids)) for ids in captions]),
        "positions": [*rows],
        "names": [f"{row}.png" for row in rows],
        **pad_captions(captions, PAD),
    }


def read_batches():
    (first, second), (third, fourth) = (STEPS[0][:2], STEPS[0][2:]), (STEPS[1][:1], STEPS[1][1:])
    for captions, start in ((first, 0), (second, 2), (third, 4), (fourth, 5)):
        yield micro_batch(captions, start)


def captions_of(batch):
    return [ids[labels != IGNORED].tolist() for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)]


def test_a_step_keeps_its_samples_longest_first():
    grouped = list(group_by_length(read_batches(), 2, PAD))
    assert [batch["positions"] for batch in grouped] == [[2, 1], [0, 3], [5], [4]]
    assert [captions_of(batch) for batch in grouped] == [[[5] * 6, [2, 2, 3]], [[7, 3], []], [[4] * 5], [[1]]]
    assert [batch["input_ids"].shape[1] for batch in grouped] == [6, 2, 5, 1]


def test_all_of_a_sample_goes_with_its_caption():
    for batch in group_by_length(read_batches(), 2, PAD):
        assert batch["names"] == [f"{row}.png" for row in batch["positions"]]
        assert batch["encoder_pixels"][:, 0, 0, 0].tolist() == batch["positions"] == batch["sources"].tolist()
        assert batch["decoder_pixels"][:, 1, 3, 0, 0].tolist() == batch["crops"][:, 3].tolist() == batch["positions"]
        assert batch["decoder_pixels"].dtype == torch.float16
        assert batch["weights"].tolist() == [float(bool(ids)) for ids in captions_of(batch)]
        assert batch["encoder_pixels"].dtype == torch.uint8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="memory is pinned for a GPU")
def test_pinned_batches_stay_pinned():
    pinned = [
        {key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        for batch in read_batches()
    ]
    for batch in group_by_length(pinned, 2, PAD):
        assert all(value.is_pinned() for value in batch.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_number_of_micro_batches_keeps_every_sample(count):
    grouped = list(group_by_length(read_batches(), count, PAD))
    assert sorted(position for batch in grouped for position in batch["positions"]) == [*range(6)]
    assert [len(batch["positions"]) for batch in grouped] == [2, 2, 1, 1]


def test_a_step_s_loss_and_gradients_are_what_they_were(tiny_components, tmp_path):
    new_stage1(tiny_components).save_pretrained(tmp_path)
    captioner = new_captioner(tmp_path, tiny_components / "qwen")
    captioner.set_trained(["mlp", "llm", "encoder"])
    objective = CaptionObjective(captioner.eval(), 0)  # without dropout, which differs from row to row
    captions = [[5] * 9, [4, 6], [8] * 3, [7] * 8]
    pixels = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = [micro_batch(captions[:2], 0), micro_batch(captions[2:], 2)]
    for batch, images in zip(batches, pixels.split(2), strict=True):
        batch["encoder_pixels"] = images
        batch["sources"] = torch.zeros(2, dtype=torch.long)

    def step(micro_batches):
        losses = [objective(batch)["caption"] for batch in micro_batches]
        captioner.zero_grad()
        sum(losses).backward()
        return sum(losses).detach(), [value.grad for value in captioner.parameters() if value.grad is not None]

    loss, gradients = step(batches)
    grouped = list(group_by_length(batches, 2, PAD))
    assert [batch["positions"] for batch in grouped] == [[0, 3], [2, 1]]
    own_loss, own_gradients = step(grouped)
    assert_close(own_loss, loss, rtol=1e-6, atol=1e-6)
    assert len(own_gradients) == len(gradients)
    for own, other in zip(own_gradients, gradients, strict=True):
        assert_close(own, other, rtol=1e-4, atol=1e-5)
