import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.backends import cuda

from tests.models import new_captioner, new_stage1
from vlv.benchmarks import speed
from vlv.benchmarks.arm import WARM, Run, measure
from vlv.benchmarks.calls import BenchmarkError
from vlv.benchmarks.speed import OURS, PUBLISHED, Suite, arms, lever_names, read_facts
from vlv.benchmarks.worlds import World
from vlv.cli.benchmark import main
from vlv.cli.benchmark_speed import table
from vlv.config import BenchmarkSpeedConfig, Stage1Config, Stage2Config
from vlv.planning.decoders import SizeConfig, build
from vlv.planning.meta_step import count_flops
from vlv.resources import find_recipe
from vlv.settings import resolve_config

CONFIG = BenchmarkSpeedConfig(batch_size=2, steps=2, num_workers=0, precision="fp32", new_tokens=4, denoising_steps=2)


def as_published_precision(stage):
    kind = {"stage1": Stage1Config, "stage2": Stage2Config}[stage]
    return resolve_config(kind, find_recipe(f"{stage}_as_published"), []).config.precision


@pytest.fixture(scope="module")
def world(tiny_components, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    new_stage1(tiny_components).save_pretrained(folder / "stage1")
    new_captioner(folder / "stage1", tiny_components / "qwen").save_pretrained(folder / "captioner")
    components = [tiny_components / name for name in ("stable-diffusion", "florence2", "qwen")]
    return World(*map(str, (*components, folder / "stage1", folder / "captioner")))


@pytest.fixture(autouse=True)
def any_number_format():
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps a process's first one
    yield
    cuda.enable_flash_sdp(True)  # what a training in bf16 sets for its process
    cuda.allow_fp16_bf16_reduction_math_sdp(False)


@pytest.fixture
def suite(world, tmp_path):
    return lambda kind, config=CONFIG: Suite.prepare(kind, config, world, tmp_path / "images")


@pytest.mark.parametrize(
    ("kind", "numbers", "accumulation"), [("stage1", "fp32", 1), ("stage2", "fp32", 2), ("stage2", "bf16", 1)]
)
def test_ours_and_the_published_recipe_have_the_same_losses(suite, kind, numbers, accumulation, tmp_path):
    config = dataclasses.replace(CONFIG, accumulation=accumulation)
    suite, runs = suite(kind, config), []
    for arm in arms(kind, config):
        formats = dict.fromkeys(("precision", "param_dtype"), numbers)
        arm = dataclasses.replace(arm, settings={**arm.settings, **formats})  # the choices, not the number format
        place = tmp_path / arm.name
        place.mkdir()
        runs.append(measure(suite.spec(arm, place)))
    ours, published = runs
    assert len(ours.seconds) == len(published.seconds) == CONFIG.steps
    assert len(ours.losses) == WARM + CONFIG.steps - 1  # the last is not logged any more
    # Dropout draws other numbers where activations are computed again or captions are longer: none is on.
    assert ours.losses == pytest.approx(published.losses, rel={"fp32": 1e-5, "bf16": 1e-3}[numbers])
    assert min(ours.memory_mib, ours.first_step, *ours.seconds) > 0
    assert sorted(path.name for path in (tmp_path / PUBLISHED).iterdir() if path.suffix) == [
        "config.yaml",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize("kind", ["stage1", "stage2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_chooses_its_attention_by_its_length(suite, kind, precision, tmp_path):
    suite = suite(kind)
    arm = arms(kind, CONFIG)[0]
    measure(suite.spec(dataclasses.replace(arm, settings={**arm.settings, "precision": precision}), tmp_path))
    assert cuda.flash_sdp_enabled() == (precision == "fp32"), "the tiny models' sequences are short"
    assert cuda.fp16_bf16_reduction_math_sdp_allowed() == (precision == "bf16")


def test_latents_from_a_cache_spare_the_vae(world, tmp_path):
    config = dataclasses.replace(CONFIG, levers=True)
    suite = Suite.prepare("stage1", config, world, tmp_path / "images")
    flops = {}
    for arm in arms("stage1", config):
        if arm.name in (OURS, "with latents from a cache"):
            place = tmp_path / arm.name
            place.mkdir()
            flops[arm.name] = measure(suite.spec(arm, place, count=True)).flops[0]
    assert flops["with latents from a cache"] < 0.99 * flops[OURS]  # of a VAE of 67,000 weights


@pytest.mark.parametrize("kind", ["caption", "reconstruct"])
def test_batches_of_an_inference_are_timed(suite, kind, tmp_path):
    suite = suite(kind)
    place = tmp_path / "run"
    place.mkdir()
    run = measure(suite.spec(arms(kind, CONFIG)[0], place))
    assert len(run.seconds) == CONFIG.steps
    assert run.losses == []


def test_the_counted_flops_are_those_of_the_plan(suite, tiny_components, tmp_path):
    suite = suite("stage1")
    run = measure(suite.spec(arms("stage1", CONFIG)[0], tmp_path, count=True))
    sizes = SizeConfig(florence2=str(tiny_components / "florence2"), resolution=64, encoder_resolution=128)
    planned = sum(count_flops(build(tiny_components / "stable-diffusion", "text_encoder", sizes)))
    assert run.flops[0] / CONFIG.batch_size == pytest.approx(planned * 1e12, rel=0.01)


def test_a_profile_names_the_operators(suite, tmp_path):
    suite = suite("stage1")
    measure(suite.spec(arms("stage1", CONFIG)[0], tmp_path, profile=str(tmp_path / "profile")))
    assert "aten::addmm" in (tmp_path / "profile" / "stage1.txt").read_text()
    assert (tmp_path / "profile" / "stage1.json.gz").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["stage1", "stage2"])
def test_each_lever_is_one_change(kind):
    ours, published, *others = arms(kind, dataclasses.replace(CONFIG, precision="bf16", num_workers=1, levers=True))
    assert published.name == PUBLISHED
    for arm in others:
        changed = [key for key in {**ours.settings, **arm.settings} if ours.settings.get(key) != arm.settings.get(key)]
        assert len(changed) + (arm.published != ours.published) == 1
    assert len({arm.name for arm in others}) == len(others) >= 5


def test_captions_of_like_length_together_cost_less(suite, tmp_path):
    config = dataclasses.replace(CONFIG, accumulation=4, lever="any length together")
    ours, _, as_read = arms("stage2", config)
    suite, flops = suite("stage2", config), []
    for number, arm in enumerate((ours, as_read)):
        place = tmp_path / str(number)
        place.mkdir()
        # This tokenizer makes several tokens of a word: all captions would be cut at the same length.
        arm = dataclasses.replace(arm, settings={**arm.settings, "max_caption_tokens": 2000})
        flops.append(measure(suite.spec(arm, place, count=True)).flops[0])
    assert flops[0] < 0.99 * flops[1]


def test_inference_has_no_accumulation(capsys):
    with pytest.raises(SystemExit):
        main(["caption", "accumulation=2"])
    assert "accumulation=2 is of trainings: leave it out for caption" in capsys.readouterr().err


def test_one_lever_is_measured_alone():
    config = dataclasses.replace(CONFIG, precision="bf16", lever="latents")
    assert [arm.name for arm in arms("stage1", config)][2:] == ["with latents from a cache"]
    with pytest.raises(BenchmarkError, match="lever=in bf16 is none of stage1's: in fp32, "):
        arms("stage1", dataclasses.replace(config, lever="in bf16"))  # it is ours already


def test_a_lever_that_is_not_there_is_told_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["caption", "lever=latents", f"folder={tmp_path}"])
    assert "lever=latents is none of caption's: in " in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
    # Which of the two is a lever depends on the models, which are not written yet.
    assert {"in fp32", "in bf16"} <= lever_names("caption", BenchmarkSpeedConfig())


@pytest.mark.parametrize("has_bf16", [True, False])
def test_the_recipes_number_formats(has_bf16, monkeypatch):
    monkeypatch.setattr("vlv.benchmarks.speed.cpu_has_bf16", lambda: has_bf16)
    formats = {kind: arms(kind, CONFIG)[1].settings for kind in ("stage1", "stage2", "caption")}
    assert formats["stage1"]["precision"] == formats["caption"]["precision"] == "fp32"
    stage2 = (formats["stage2"]["precision"], formats["stage2"].get("param_dtype"))
    assert stage2 == (("bf16", "bf16") if has_bf16 or torch.cuda.is_available() else ("fp32", None))
    assert as_published_precision("stage2") == "bf16"
    assert as_published_precision("stage1") == "fp32"


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stage1", "caption"])
def test_two_processes_beside_one(kind, tmp_path):
    given = ["processes=2", "rounds=1", "steps=1", "batch_size=2", "new_tokens=4"]
    places = [f"folder={tmp_path / 'models'}", f"json={tmp_path / 'facts.json'}"]
    call = [sys.executable, "-m", "vlv", "benchmark", kind, *given, *places]
    subprocess.run(call, capture_output=True, text=True, check=True)
    _, results, _, _ = read_facts(json.loads((tmp_path / "facts.json").read_text()))
    ours, _, alone = results
    assert [result.arm.processes for result in results] == [2, 2, 1]
    assert alone.arm.name == "in one process"
    assert ours.speed(2) == 4 / ours.seconds


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stage1", "stage2", "caption", "reconstruct"])
def test_a_suite_from_its_command(kind, tmp_path):
    given = ["rounds=1", "steps=1", "batch_size=2", "new_tokens=4", "denoising_steps=2"]
    places = [f"folder={tmp_path / 'models'}", f"json={tmp_path / 'facts.json'}"]
    call = [sys.executable, "-m", "vlv", "benchmark", kind, *given, *places]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "| ours | " in done.stdout
    assert "| published recipe | " in done.stdout
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["flops_an_image"] > 0
    assert [len(arm["runs"]) for arm in facts["arms"]] == [1, 1]


def test_a_failed_run_is_one_line(tmp_path, capsys):
    broken = tmp_path / "models" / "tiny"
    for name in ("stable-diffusion", "florence2", "stage1"):
        (broken / name).mkdir(parents=True)
        (broken / f".{name}.written").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["reconstruct", "rounds=1", "steps=1", "batch_size=1", f"folder={tmp_path / 'models'}"])
    assert stopped.value.code == 1
    assert "reconstruct, ours, ended with exit code 1: " in capsys.readouterr().err


def test_a_lever_that_does_not_fit_leaves_the_others_their_figures(monkeypatch, tmp_path):
    """As fp32 of stage 2 at full size, in 24 GB."""
    measured = Run(seconds=[0.5], first_step=3.0, flops=[8.0], memory_mib=7.0, device_mib=0.0, losses=[])

    def run(suite, arm, **_):
        if arm.name == "without loader workers":
            raise BenchmarkError("caption, without loader workers, was killed, most likely for memory")
        return measured

    monkeypatch.setattr(speed, "_run", run)
    monkeypatch.setattr(speed.Suite, "prepare", lambda *_: None)
    config = BenchmarkSpeedConfig(levers=True, rounds=2, precision="fp32")
    done = []
    results, flops, machine = speed.measure("caption", config, None, done.append)
    assert len(done) == 2 * len(results)
    assert {result.arm.name: len(result.runs) for result in results}["without loader workers"] == 0
    facts = json.loads(json.dumps(speed.facts(config, results, flops, machine)))
    printed = table("caption", *speed.read_facts(facts)).splitlines()
    assert [line for line in printed if line.startswith("| without loader workers | |")]
    assert printed[-1].endswith("caption, without loader workers, was killed, most likely for memory")


@pytest.mark.slow
def test_starts_are_timed(tmp_path, capsys):
    main(["startup", "rounds=1", f"folder={tmp_path / 'models'}", f"json={tmp_path / 'facts.json'}"])
    assert "| vlv stage1, to its first training step | " in capsys.readouterr().out
    seconds = json.loads((tmp_path / "facts.json").read_text())["seconds"]
    assert all(0 < found[0] < 600 for found in seconds.values())
    assert len(seconds) == 5
