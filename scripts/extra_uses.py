"""A small real use of each extra of pyproject.toml, where it is installed alone; for `scripts.try_extras`.

    PYTHON scripts/extra_uses.py EXTRA

runs in an empty folder with the Python of the extra's environment, prints in one line what came of it, and fails where
that is not what it must be. Models and pictures are the small world's, which the package ships; no hub is asked.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import packages_distributions, requires
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
PICTURES = 4
_LORA = {"r": 4, "target_modules": r"llm\..*\.(q_proj|v_proj)"}


def use_core() -> str:
    """Captions of pictures, by `vlv caption` without any extra."""
    return f"{len(_captions('plain.json'))} captions"


def use_caption_api() -> str:
    """Captions from an endpoint, by `vlv data caption`."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = {"role": "assistant", "content": "Shapes on a plain background. " * 8}
            choice = {"index": 0, "message": said, "finish_reason": "stop", "logprobs": None}
            usage = {"prompt_tokens": 9, "completion_tokens": 48, "total_tokens": 57}
            answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
            body = json.dumps({**answer, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _listening(Endpoint) as address:
        _vlv("data", "caption", _pictures(), "said", f"base_url={address}/v1", "model=m")
    said = json.loads(Path("said/captions.json").read_text())
    assert len(said) == PICTURES, said
    return f"{len(said)} answers of an endpoint"


def use_demo() -> str:
    """The page of `vlv demo`, with its components."""
    with _serving("/", "demo") as address, urllib.request.urlopen(f"{address}/config", timeout=60) as answer:
        names = {part["props"].get("elem_id") for part in json.load(answer)["components"]}
    assert {"image", "caption", "drawn", "from-text", "composed"} <= names, names
    return "the page, with captions and pictures"


def use_duplicates() -> str:
    """Shards without the same picture in other bytes, by `vlv data shards`."""
    from PIL import Image

    for path in Path(_pictures()).glob("*.png"):
        with Image.open(path) as image:
            image.convert("RGB").save(path.with_suffix(".jpg"), quality=98)
    _vlv("data", "shards", "pictures", "shards", "duplicates=near", "num_workers=0")
    samples = json.loads(Path("shards/manifest.json").read_text())["samples"]
    assert samples == PICTURES, samples
    return f"{samples} of {2 * PICTURES} pictures kept"


def use_efficientnet() -> str:
    """The distance of reconstructions on EfficientNet-Lite0."""
    return f"fd_efficientnet_lite0 {_reconstruct('efficientnet_lite0')['fd_efficientnet_lite0']:.4f}"


def use_gguf() -> str:
    """Captions by llama.cpp, of the captioner's export in 8 bits."""
    _vlv("export", "gguf", _folder("captioner"), "small", "format=q8_0")
    return f"{len(_captions('small.json', captioner='small'))} captions by llama.cpp"


def use_inception() -> str:
    """FID; or, where the weights of the network cannot be downloaded, the line that says so."""
    try:
        return f"fid {_reconstruct('inception')['fid']:.4f}"
    except RuntimeError as error:
        said = [line for line in str(error).splitlines() if line.startswith("error: ")]
        if not said or "weights cannot be had" not in said[-1]:
            raise
        return said[-1]


def use_peft() -> str:
    """A step of LoRA on the captioner; its adapter is saved and loaded, and says the same."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    captioner, processor, images = _captioner()
    model = get_peft_model(captioner, LoraConfig(**_LORA))
    inputs = processor(images=images, text=["A red house."] * PICTURES, padding_side="right", return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[labels == processor.image_token_id] = -100
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):  # LoRA's second matrix begins as zeros, so the first one moves in the second step
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    asked = processor(images=images, return_tensors="pt")
    said = model.eval().generate(**asked, num_beams=1, max_new_tokens=16)
    model.save_pretrained("adapter")
    again = PeftModel.from_pretrained(_captioner()[0], "adapter").eval()
    assert torch.equal(again.generate(**asked, num_beams=1, max_new_tokens=16), said)
    return f"{sum(value.numel() for value in trained):,} weights trained, saved and loaded"


def use_quant() -> str:
    """Captions by a language model in 8 and in 4 bits, by `vlv caption quantize=...`."""
    plain = _captions("plain.json")
    same = {kind: _captions(f"{kind}.json", f"quantize={kind}") for kind in ("int8", "int4")}
    counts = [f"{kind}: {sum(found[name] == plain[name] for name in plain)}" for kind, found in same.items()]
    return f"of {len(plain)} captions as without it, {', '.join(counts)}"


def use_ray() -> str:
    """Captions on a local cluster, by `vlv caption engine=ray`: those without it."""
    plain = _captions("plain.json")
    assert _captions("ray.json", "engine=ray") == plain
    return f"{len(plain)} captions, those without Ray"


def use_remote() -> str:
    """Captions of pictures behind a URL, and the classes for buckets."""
    import fsspec

    plain = _captions("plain.json")
    with _listening(partial(_Ranges, directory="pictures")) as address:
        _vlv("caption", f"{address}/", f"ckpt_dir={_folder('captioner')}", "num_beams=1", "output_path=remote.json")
    assert list(json.loads(Path("remote.json").read_text()).values()) == list(plain.values())
    buckets = ", ".join(fsspec.get_filesystem_class(name).__name__ for name in ("s3", "gs"))
    return f"{len(plain)} captions, those from the disk; {buckets}"


def use_serve() -> str:
    """A caption of `vlv serve`: that of `vlv caption`."""
    plain = _captions("plain.json")
    name = min(plain)
    url = "data:image/png;base64," + base64.b64encode((Path("pictures") / name).read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "captioner", "messages": [{"role": "user", "content": content}]}).encode()
    with _serving("/healthz", "serve", _folder("captioner"), "model_name=captioner", "num_beams=1") as address:
        head = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{address}/v1/chat/completions", body, headers=head)
        with urllib.request.urlopen(asked, timeout=120) as answer:
            said = json.load(answer)["choices"][0]["message"]["content"]
    assert said == plain[name], (said, plain[name])
    return "healthy; a caption, that of vlv caption"


def use_trl() -> str:
    """A step of supervised fine-tuning by TRL, with LoRA."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    captioner, processor, images = _captioner()
    text = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
    rows = [
        {
            "prompt": [{"role": "user", "content": [{"type": "image", "text": None}]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": "A red house."}]}],
            "images": [image],
        }
        for image in images
    ]
    arguments = SFTConfig(
        output_dir="out", max_steps=1, per_device_train_batch_size=2, max_length=None, report_to=[], use_cpu=True,
        bf16=False, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    features = Features({"prompt": text, "completion": text, "images": List(ImageFeature())})
    data = Dataset.from_list(rows, features=features)
    trainer = SFTTrainer(
        captioner, args=arguments, processing_class=processor, train_dataset=data, peft_config=LoraConfig(**_LORA)
    )
    return f"a step, loss {trainer.train().training_loss:.3f}"


def use_imports(extra: str) -> str:
    """For an extra that has no use above: each of its packages is imported."""
    names = [_name(text) for text in requires("vlv") or [] if f'extra == "{extra}"' in text.replace("'", '"')]
    modules = packages_distributions()
    found = [min((key for key, own in modules.items() if name in map(_name, own)), key=len) for name in names]
    for module in found:
        __import__(module)
    return f"imported: {', '.join(found)}"


USES: dict[str, Callable[[], str]] = {
    name.removeprefix("use_").replace("_", "-"): use
    for name, use in list(globals().items())
    if name.startswith("use_") and name != "use_imports"
}


def _name(requirement: str) -> str:
    """The canonical name of a package, in a requirement or by itself."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    return canonicalize_name(Requirement(requirement).name)


def _folder(name: str) -> str:
    """The small world's trained `captioner` or `stage1`, of the installed package."""
    from vlv.resources import assets_folder

    return str(assets_folder() / "tiny" / "trained" / name)


def _pictures() -> str:
    from vlv.shapes.render import render
    from vlv.shapes.scene import make_scene

    Path("pictures").mkdir(exist_ok=True)
    for number in range(PICTURES):
        render(make_scene("test", number), number).save(f"pictures/{number}.png")
    return "pictures"


def _captioner() -> tuple:
    """(captioner, processor, images) in this process."""
    from PIL import Image

    from vlv import VLVCaptioner, VLVProcessor

    captioner = VLVCaptioner.from_pretrained(_folder("captioner"))
    processor = VLVProcessor(captioner.image_processor, captioner.tokenizer, captioner.num_image_tokens)
    return captioner, processor, [Image.open(path) for path in sorted(Path(_pictures()).glob("*.png"))]


def _captions(output: str, *more: str, captioner: str | None = None) -> dict[str, str]:
    """Captions by the command, by file name; of the small world's captioner where none is named."""
    folder = captioner or _folder("captioner")
    _vlv("caption", _pictures(), f"ckpt_dir={folder}", "num_beams=1", f"output_path={output}", *more)
    captions = json.loads(Path(output).read_text())
    assert len(captions) == PICTURES, captions
    assert all("background" in text for text in captions.values()), captions
    return captions


def _reconstruct(extractor: str) -> dict[str, float]:
    """The measures of reconstructions by the command."""
    call = ["reconstruct", _pictures(), f"ckpt_dir={_folder('stage1')}", "output_dir=drawn", "num_inference_steps=2"]
    _vlv(*call, f"extractor={extractor}")
    return json.loads(Path("drawn/metrics.json").read_text())["seeds"][0]


def _vlv(*arguments: str) -> str:
    return _run([sys.executable, "-m", "vlv", *arguments])


def _run(call: list[str], cwd: Path | None = None, **variables: str) -> str:
    """What a call prints; where it fails, its messages are the error's text."""
    done = subprocess.run(call, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr + done.stdout)
    return done.stdout


@contextmanager
def _serving(path: str, *call: str) -> Iterator[str]:
    """The address of a command that serves, from when it answers at a path until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-m", "vlv", *call, f"port={port}"], stderr=subprocess.DEVNULL) as server:
        try:
            _wait(f"{address}{path}", server)
            yield address
        finally:
            server.terminate()


def _wait(url: str, server: subprocess.Popen) -> None:
    """Until a server that is starting answers 200, two minutes at most."""
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{url} does not answer") from None
            time.sleep(0.2)


class _Ranges(SimpleHTTPRequestHandler):
    """Files of a folder, also by ranges, which the standard library's server does not give."""

    def do_GET(self) -> None:
        path, wanted = Path(self.translate_path(self.path)), self.headers.get("Range")
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback, while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    chosen = sys.argv[1]
    print(USES[chosen]() if chosen in USES else use_imports(chosen))
