"""The engine hands images over and gathers their captions, whatever order vLLM finishes them in; vLLM is a stand-in."""

import json
import random
import sys
from types import SimpleNamespace

import pytest
import torch

from vlv.inference.captions import CaptionSearch, caption_images, local_images
from vlv.inference.images import ReadSettings
from vlv.inference.outputs import JsonLines
from vlv.models.captioner import VLVCaptioner
from vlv.models.image_rows import ImageRows
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene
from vlv.vllm import engine

CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"


class FakeLLM:
    """Goes on from embeddings by the captioner's own language model, and finishes requests in any order."""

    options: dict
    failure = ""

    def __init__(self, model, **options):
        if self.failure:
            raise ValueError(self.failure)
        FakeLLM.options = options
        captioner = VLVCaptioner.from_pretrained(model)
        self._llm, self._end = captioner.llm, captioner.eos_token_id
        self._waiting, self._count, self.most = [], 0, 0
        self._random = random.Random(0)
        self.llm_engine = self

    def enqueue(self, prompts, params, use_tqdm):
        made = []
        for prompt, asked in zip(prompts, params, strict=True):
            self._count += 1
            made.append(f"{self._count}-5f3a9c01")  # the request's name, and what makes it unique
            self._waiting.append((str(self._count), prompt["prompt_embeds"], asked))
        self.most = max(self.most, len(self._waiting))
        return made

    def step(self):
        self._random.shuffle(self._waiting)
        name, rows, asked = self._waiting.pop()
        tokens = self._llm.generate(
            inputs_embeds=rows[None], num_beams=1, max_new_tokens=asked.max_tokens, do_sample=False
        )[0].tolist()
        tokens = tokens[: tokens.index(self._end) + 1] if self._end in tokens else tokens
        if asked.seed is not None:  # a sampled caption says its seed
            tokens = [*tokens[:3], 20 + asked.seed % 200, self._end]
        return [
            SimpleNamespace(request_id=name, finished=True, outputs=[SimpleNamespace(token_ids=tokens)]),
            *(SimpleNamespace(request_id=other, finished=False) for other, *_ in self._waiting[:1]),
        ]


@pytest.fixture
def fake(monkeypatch):
    module = SimpleNamespace(LLM=FakeLLM, SamplingParams=lambda **options: SimpleNamespace(**options))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(FakeLLM, "failure", "")
    return FakeLLM


@pytest.fixture(scope="module")
def rows():
    return ImageRows.from_pretrained(CAPTIONER)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        render(make_scene("test", number), number).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def run(captioner, photos, output, search):
    inputs = local_images(str(photos))
    caption_images(captioner, inputs, JsonLines(output), search, ReadSettings(batch_size=3), {})
    return {line["image"]: line["caption"] for line in map(json.loads, output.read_text().splitlines())}


def test_every_image_has_its_own_caption(fake, rows, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_AHEAD", 4)
    search = CaptionSearch(num_beams=1, max_new_tokens=24, end_at_sentence=True, prefix="sks ")
    captioner = engine.VllmCaptioner(str(CAPTIONER), rows, 24, 0.5)
    found = run(captioner, photos, tmp_path / "vllm.jsonl", search)
    assert found == run(VLVCaptioner.from_pretrained(CAPTIONER), photos, tmp_path / "plain.jsonl", search)
    assert len(found) == 7
    assert len(set(found.values())) > 1
    assert "broken.png" in (tmp_path / "vllm_bad_samples.jsonl").read_text()
    assert captioner._llm.most <= 4 + 3, "a batch more than may be ahead"
    assert fake.options["kv_cache_memory_bytes"] == 2**29
    assert fake.options["max_model_len"] == rows.num_image_tokens + 24
    assert fake.options["dtype"] == "float32"
    assert not fake.options["enable_prefix_caching"]


@pytest.mark.usefixtures("fake")
def test_sampled_captions_of_an_image_are_joined_in_the_order_of_their_seeds(rows, photos, tmp_path):
    search = CaptionSearch(temperature=0.7, count=3, seed=5)
    captioner = engine.VllmCaptioner(str(CAPTIONER), rows, None, 0.5)
    found = run(captioner, photos, tmp_path / "out.jsonl", search)
    tokenizer = captioner._tokenizer
    for name, captions in found.items():
        marks = [tokenizer.decode([20 + seed % 200]).strip() for seed in search.seeds(name)]
        assert [caption.endswith(mark) for caption, mark in zip(captions, marks, strict=True)] == [True] * 3


def test_what_vllm_refuses_is_one_line(fake, rows, monkeypatch):
    monkeypatch.setattr(fake, "failure", "the cache\nis too small")
    with pytest.raises(ValueError, match=r"^vLLM does not start \(the cache is too small\)"):
        engine.VllmCaptioner(str(CAPTIONER), rows, None, 0.001)


def test_rows_are_what_the_captioner_reads(rows):
    captioner = VLVCaptioner.from_pretrained(CAPTIONER)
    pixels = captioner.image_processor.batch([render(make_scene("test", 3), 3)])["encoder_pixels"]
    with torch.no_grad():
        assert torch.equal(rows(pixels), captioner.prefix(captioner.embed(pixels)))
