"""Captions by vLLM are those without it: offline, over HTTP, and by vLLM's own calls.

Runs in the environment that scripts/install_vllm.sh makes: `pip install pytest`, then
`pytest -m slow tests/integration/test_caption_vllm.py`.
"""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import answers, served
from vlv.models.captioner import VLVCaptioner
from vlv.resources import assets_folder
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
CAPTIONER = assets_folder() / "tiny" / "trained" / "captioner"
SMALL = {"dtype": "float32", "max_model_len": 192, "kv_cache_memory_bytes": 2**28, "enforce_eager": True}


@pytest.fixture(scope="module")
def scenes():
    return [render(make_scene("test", number), number) for number in range(16)]


@pytest.fixture(scope="module")
def plain(scenes):
    """Greedy token ids of each scene, the end token included."""
    captioner = VLVCaptioner.from_pretrained(CAPTIONER)
    pixels = captioner.image_processor.batch(scenes)["encoder_pixels"]
    rows = captioner.generate_ids(pixels, num_beams=1).tolist()
    end = captioner.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


@pytest.fixture(scope="module")
def photos(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, scene in enumerate(scenes):
        scene.save(folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def call(folder, output, *more):
    command = [sys.executable, "-m", "vlv", "caption", str(folder), f"ckpt_dir={CAPTIONER}", "to=jsonl"]
    done = subprocess.run([*command, f"output_path={output}", *more], check=True, capture_output=True, text=True)
    return [json.loads(line)["caption"] for line in output.read_text().splitlines()], done


def test_offline_captions_are_those_of_the_plain_engine(photos, tmp_path):
    expected, _ = call(photos, tmp_path / "plain.jsonl", "num_beams=1")
    engine = ["engine=vllm", "vllm_cache_gib=0.25", "batch_size=5"]
    found, done = call(photos, tmp_path / "vllm.jsonl", "num_beams=1", *engine)
    assert found == expected
    assert len(found) == 16
    assert json.loads((tmp_path / "vllm_bad_samples.jsonl").read_text())["name"] == "broken.png"
    assert "vllm" not in done.stdout.replace("vllm.jsonl", "").replace("vllm_bad_samples", ""), "its own messages"


def test_sampled_captions_depend_on_the_image_and_the_seed(photos, tmp_path):
    several = ["engine=vllm", "vllm_cache_gib=0.25", "temperature=1.5", "captions_per_image=2", "prefix=a "]
    once, _ = call(photos, tmp_path / "a.jsonl", *several, "batch_size=3", "seed=1")
    again, _ = call(photos, tmp_path / "b.jsonl", *several, "batch_size=16", "seed=1")
    other, _ = call(photos, tmp_path / "c.jsonl", *several, "batch_size=16", "seed=2")
    assert all(len(own) == 2 and own[0].startswith("a ") for own in once)
    assert any(own[0] != own[1] for own in once)
    assert once == again
    assert once != other


def test_vllms_own_calls_take_images(scenes, plain):
    from vllm import LLM, SamplingParams

    llm = LLM(str(CAPTIONER), **SMALL)
    greedy = SamplingParams(temperature=0, max_tokens=78)
    prompts = [{"prompt": "<|image_pad|>", "multi_modal_data": {"image": scene}} for scene in scenes]
    assert [out.outputs[0].token_ids for out in llm.generate(prompts, greedy, use_tqdm=False)] == plain
    chats = [
        [{"role": "user", "content": [image_url(scene), {"type": "text", "text": "Describe."}]}] for scene in scenes
    ]
    assert [out.outputs[0].token_ids for out in llm.chat(chats, greedy, use_tqdm=False)] == plain
    # Text after the image is the beginning of its caption.
    begun = {
        "prompt": "<|image_pad|>" + llm.get_tokenizer().decode(plain[0][:5]),
        "multi_modal_data": {"image": scenes[0]},
    }
    assert llm.generate([begun], greedy, use_tqdm=False)[0].outputs[0].token_ids == plain[0][5:]


RAY = """
import io, json, sys
import ray
from PIL import Image
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

def prompt(row):
    image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
    sampling = {"temperature": 0, "max_tokens": 78}
    return {"prompt": "<|image_pad|>", "multimodal_data": {"image": image}, "sampling_params": sampling}

if __name__ == "__main__":
    captioner, options, folder, output = sys.argv[1:]
    ray.init(num_cpus=4, log_to_driver=False)
    config = vLLMEngineProcessorConfig(
        model_source=captioner, engine_kwargs=json.loads(options), batch_size=8, log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1, "GPU": 0}]}, prepare_multimodal_stage=False,
        chat_template_stage=False, tokenize_stage=False, detokenize_stage=False,
    )
    captions = build_processor(config, prompt, lambda row: {"path": row["path"], "ids": row["generated_tokens"]})
    photos = ray.data.read_binary_files(folder, include_paths=True, file_extensions=["png"])
    rows = sorted(captions(photos).take_all(), key=lambda row: row["path"])
    with open(output, "w") as file:
        json.dump([[int(token) for token in row["ids"]] for row in rows], file)
"""


def test_ray_datas_own_workers_need_nothing_of_this_project(scenes, plain, tmp_path):
    pytest.importorskip("ray")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, scene in enumerate(scenes):
        scene.save(photos / f"{number:03}.png")
    (tmp_path / "captions.py").write_text(RAY)
    call = [sys.executable, "captions.py", str(CAPTIONER), json.dumps(SMALL), str(photos), "ids.json"]
    subprocess.run(call, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    assert json.loads((tmp_path / "ids.json").read_text()) == plain


def image_url(scene):
    buffer = io.BytesIO()
    scene.save(buffer, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()},
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    def command(port):
        options = ["--dtype=float32", "--max-model-len=192", "--kv-cache-memory-bytes=268435456", "--enforce-eager"]
        vllm = [str(Path(sys.executable).parent / "vllm"), "serve", str(CAPTIONER), "--served-model-name=captioner"]
        return [*vllm, "--host=127.0.0.1", f"--port={port}", *options]

    def is_up(port, _):
        return answers(f"http://127.0.0.1:{port}/health")

    with served(tmp_path_factory.mktemp("server"), command, is_up, 240, ends_cleanly=False) as port:
        yield f"http://127.0.0.1:{port}/v1"


def test_the_official_client_gets_captions_of_vllm_serve(server, scenes, plain):
    import openai

    client = openai.OpenAI(base_url=server, api_key="none")
    assert [model.id for model in client.models.list()] == ["captioner"]

    def ask(*content):
        return client.chat.completions.create(
            model="captioner", messages=[{"role": "user", "content": list(content)}], temperature=0,
            extra_body={"return_token_ids": True},
        )  # fmt: skip

    answers = [ask(image_url(scene)) for scene in scenes[:6]]
    assert [answer.choices[0].token_ids for answer in answers] == plain[:6]
    assert all(answer.choices[0].finish_reason == "stop" for answer in answers)
    assert answers[0].choices[0].message.content.strip()
    for wrong in ([{"type": "text", "text": "no image"}], [image_url(scenes[0]), image_url(scenes[1])]):
        with pytest.raises(openai.BadRequestError):
            ask(*wrong)
