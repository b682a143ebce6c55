"""Who gives each setting: code default < recipe < what is set in the launcher or its environment < key=value.

`print_config=true` is what the launchers' own command resolves; what is expected is read from the dataclasses and the
YAML files alone, so that nothing here repeats its rules.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from vlv.config import CaptionConfig, ReconstructConfig, Stage1Config, Stage2Config
from vlv.settings.declare import settings_of
from vlv.settings.values import convert

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
LAUNCHERS = {
    "stage1": ("train_stage1.sh", Stage1Config),
    "stage2": ("train_stage2.sh", Stage2Config),
    "caption": ("Caption_inference.sh", CaptionConfig),
    "reconstruct": ("Image_inference.sh", ReconstructConfig),
}
RECIPES = sorted(CONFIGS.glob("*.yaml"))
PINNED = re.compile("paper|published|shapes")
VARIABLE = re.compile(r"^(\w+)=\$\{\1:-\}\s+# (?:recipe: ([^;,\n]+)|empty)", re.MULTILINE)
# What a test sets where the type alone does not tell: values that are in no recipe.
OTHER = {"train": "decoder_only", "seeds": "5 6", "betas": "0.5,0.6", "raw_image_size": "7,8", "part": "1/3"}


def call(launcher, *arguments, cwd=ROOT, **variables):
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, **variables}
    command = ["bash", str(ROOT / launcher), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def resolved(launcher, *arguments, **keywords):
    """The effective value of every key of a call."""
    done = call(launcher, "print_config=true", *arguments, **keywords)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {key: value for key, value in yaml.safe_load(done.stdout).items() if key != "print_config"}


def expected(kind, recipe):
    """The recipe's value of each key that it has, else the code's."""
    given = OmegaConf.to_container(OmegaConf.load(recipe)) if recipe else {}
    values = {}
    for item in dataclasses.fields(kind):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        values[item.name] = given.pop(item.name, default)
    assert not given
    if "run_name" in values:
        values["output_dir"] = f"./outputs/{values['run_name']}"
    return {key: value for key, value in values.items() if key != "print_config"}


def launcher_variables(launcher):
    """variable -> (setting, what its comment says that the recipe has)."""
    text = (ROOT / launcher).read_text()
    settings = dict(re.findall(r'"(\w+)=\$(\w+)"', text))
    said = {name: value and value.strip() for name, value in VARIABLE.findall(text)}
    said.pop("CONFIG")
    assert set(settings.values()) == set(said), "a variable is not passed on, or has no comment"
    return {variable: (setting, said[variable]) for setting, variable in settings.items()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_effective_value_of_every_key_is_the_recipes(recipe):
    launcher, kind = LAUNCHERS[recipe.stem.split("_")[0]]
    assert resolved(launcher, CONFIG=f"configs/{recipe.name}") == expected(kind, recipe)


@pytest.mark.parametrize("command", LAUNCHERS)
def test_no_recipe_is_the_commands_own(command):
    launcher, kind = LAUNCHERS[command]
    assert resolved(launcher) == expected(kind, CONFIGS / f"{command}.yaml")


@pytest.mark.parametrize("command", LAUNCHERS)
def test_comments_of_the_launcher_say_what_the_recipe_has(command):
    launcher, kind = LAUNCHERS[command]
    effective = expected(kind, CONFIGS / f"{command}.yaml")
    variables = launcher_variables(launcher)
    assert len(variables) >= 9
    for variable, (key, said) in variables.items():
        value = None if said == "null" else convert(settings_of(kind)[key], said)
        assert value == effective[key], variable


@pytest.mark.parametrize("command", LAUNCHERS)
def test_each_variable_wins_over_the_recipe_and_each_key_over_both(command):
    launcher, kind = LAUNCHERS[command]
    before = expected(kind, CONFIGS / f"{command}.yaml")
    settings = settings_of(kind)

    def other(key, number):
        """A value that neither the recipe nor the code has."""
        if key in OTHER and (key, command) != ("train", "stage2"):
            return OTHER[key]
        setting = settings[key]
        if setting.choices:
            return next(word for word in setting.choices[::-1] if word != before[key])
        return {int: str(number), float: f"0.{number}", bool: "true"}.get(setting.value_hint, f"/other/{key}{number}")

    def meaning(key, text):
        return convert(settings[key], text)

    given = {variable: other(key, 3) for variable, (key, _) in launcher_variables(launcher).items()}
    by_key = {key: given[variable] for variable, (key, _) in launcher_variables(launcher).items()}
    by_variable = resolved(launcher, **given)
    for key in before:
        assert by_variable[key] == (meaning(key, by_key[key]) if key in by_key else before[key]), key
    for key, text in by_key.items():
        assert meaning(key, text) != before[key], f"{key}: this shows nothing"

    skipped = {"print_config", "projector_lr"}  # stage 2's has its own test: the MLP must train
    every = {key: other(key, 2) for key in settings if key not in skipped}
    if command == "stage2":
        every["train"] = "encoder,mlp,llm"  # LoRA, which is among the keys, is of the language model
        del every["initial_checkpoint"]  # and starts from none
    by_call = resolved(launcher, *(f"{key}={text}" for key, text in every.items()), **given)
    for key, text in every.items():
        assert by_call[key] == meaning(key, text), key


@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.stem.startswith("stage2")], ids=lambda p: p.stem)
def test_stage_2_finds_its_own_stage_1(recipe):
    own = CONFIGS / recipe.name.replace("stage2", "stage1")
    candidates = [own] if own.exists() else [path for path in RECIPES if path.stem.startswith("stage1")]
    finals = {f"{expected(Stage1Config, path)['output_dir']}/final" for path in candidates}
    assert expected(Stage2Config, recipe)["diffusion_model_path"] in finals


def test_two_recipes_do_not_share_a_run_folder():
    for stage, kind in (("stage1", Stage1Config), ("stage2", Stage2Config)):
        folders = [expected(kind, path)["output_dir"] for path in RECIPES if path.stem.split("_")[0] == stage]
        assert len(folders) == len(set(folders)) > 5


@pytest.mark.parametrize("given", ["environment", "key=value"])
def test_another_run_name_moves_the_run_folder(given):
    arguments, variables = (["run_name=second"], {}) if given == "key=value" else ([], {"run_name": "second"})
    assert resolved("train_stage1.sh", *arguments, **variables)["output_dir"] == "./outputs/second"


def test_an_edited_line_of_the_launcher_wins_over_the_recipe(tmp_path):
    text = (ROOT / "train_stage1.sh").read_text()
    assert "\nlr=${lr:-} " in text
    (tmp_path / "scripts").mkdir()
    for name in ("vlv", "configs", "scripts/launch.sh", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for edited in ("\nlr=${lr:-3e-4} ", "\nlr=3e-4 "):
        (tmp_path / "train_stage1.sh").write_text(text.replace("\nlr=${lr:-} ", edited))
        assert resolved(tmp_path / "train_stage1.sh")["lr"] == 3e-4
        assert resolved(tmp_path / "train_stage1.sh", "lr=2e-4")["lr"] == 2e-4


def test_a_users_own_yaml_is_honoured(tmp_path):
    own = {
        "train_dataset_path": "mine/train", "val_dataset_path": "mine/val", "output_dir": "mine/run",
        "florence2_model_path": "mine/florence2", "lr": 3e-4,
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    found = resolved("train_stage1.sh", cwd=tmp_path, CONFIG="mine.yaml")
    assert {key: found[key] for key in own} == own
    assert found["num_steps"] == expected(Stage1Config, None)["num_steps"]


@pytest.mark.parametrize(
    ("command", "recipe"), [("stage1", None), ("stage2", "stage2_qwen0.5b"), ("reconstruct", None)]
)
def test_a_call_from_another_folder_means_the_same_places(tmp_path, command, recipe):
    launcher, _ = LAUNCHERS[command]
    variables = {"CONFIG": f"configs/{recipe}.yaml"} if recipe else {}
    here, there = (resolved(launcher, cwd=cwd, **variables) for cwd in (ROOT, tmp_path))
    moved = {key for key in here if here[key] != there[key]}
    for key in moved:
        assert there[key] == str(ROOT / here[key])
    places = {key for key, value in here.items() if isinstance(value, str) and value.startswith("./")}
    assert moved == places
    assert len(places) >= 3
    assert "qwen_model" not in moved, "a hub id stays one"


def test_what_the_user_gives_starts_from_where_they_call(tmp_path):
    found = resolved("train_stage1.sh", "output_dir=run", cwd=tmp_path, train_dataset_path="./photos")
    assert (found["train_dataset_path"], found["output_dir"]) == ("./photos", "run")
    shipped = resolved("train_stage1.sh", cwd=tmp_path, ACCELERATE_CONFIG="configs/accelerate/fsdp.yaml")
    assert shipped["accelerate_config"] == str(CONFIGS / "accelerate" / "fsdp.yaml")


def test_recipes_repeat_no_default_of_the_code():
    """A recipe holds what differs, and the numbers that its launcher lets a user set; a paper's pins them all."""
    for path in RECIPES:
        launcher, kind = LAUNCHERS[path.stem.split("_")[0]]
        if PINNED.search(path.stem):
            continue
        defaults = expected(kind, None)
        shown = {key for key, _ in launcher_variables(launcher).values()} | {"scheduler"}
        repeated = {
            key
            for key, value in yaml.safe_load(path.read_text()).items()
            if value == defaults[key] and key not in shown
        }
        assert not repeated, path.name


def test_each_stage_1_recipe_says_how_to_fetch_its_decoder():
    from vlv.cli.download import COMPONENTS

    parts = {component.folder: part for part, component in COMPONENTS.items()}
    for path in CONFIGS.glob("stage1*.yaml"):
        part = parts.get(Path(expected(Stage1Config, path)["stable_diffusion_model_path"]).name)
        if part is not None and not PINNED.search(path.stem):
            assert f"# vlv download {part} florence2" in path.read_text(), path.name


@pytest.mark.parametrize(
    ("command", "variable", "words"),
    [
        ("stage1", "train_dataset_path", ["vlv download pairs"]),
        ("stage2", "dataset_path", ["vlv download pairs"]),
        ("caption", "CKPT_DIR", ["vlv import", "vlv stage2"]),
        ("reconstruct", "CKPT_DIR", ["vlv import", "vlv stage1"]),
    ],
)
def test_a_call_with_nothing_set_says_what_to_set_and_how_to_get_it(tmp_path, command, variable, words):
    (tmp_path / "scripts").mkdir()
    for name in ("vlv", "configs", "assets", "scripts/launch.sh", "pyproject.toml", LAUNCHERS[command][0]):
        (tmp_path / name).symlink_to(ROOT / name)
    done = call(tmp_path / LAUNCHERS[command][0], cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in (variable, *words)), line


@pytest.mark.parametrize("launcher", [launcher for launcher, _ in LAUNCHERS.values()])
def test_no_environment_is_one_line(tmp_path, launcher):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")  # what `sys.exit(sys.version_info < (3, 11))` makes of it
    old.chmod(0o755)
    for python, words in ((tmp_path / "absent", "is not there"), (old, "older than Python 3.11")):
        done = call(launcher, PYTHON=str(python))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert words in line
        assert str(python) in line


@pytest.mark.parametrize(
    ("launcher", "setting", "words"),
    [
        ("train_stage1.sh", "train=mlp", ["train=mlp", "language_model, decoder_only, all"]),
        ("train_stage2.sh", "train=[mlp,head]", ["train=[mlp,head]", "mlp, llm, encoder"]),
        ("train_stage1.sh", "lr=", ["lr=", "a number"]),
        ("train_stage1.sh", "lr=abc", ["lr=abc", "a number"]),
        ("train_stage1.sh", "epochs=3", ["epochs", "stage 2"]),
    ],
)
def test_bad_settings_are_one_line(launcher, setting, words):
    done = call(launcher, setting)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line


def test_seeds_that_are_none_are_one_line():
    done = call("Image_inference.sh", SEEDS="a b")
    assert done.returncode == 2
    assert done.stderr == "error: seeds=a b cannot be used: give a list of whole numbers, as in seeds=[1,2]\n"


def test_a_recipe_of_another_stage_is_called_that():
    done = call("train_stage1.sh", CONFIG="configs/stage2.yaml")
    assert done.returncode == 2
    assert "configs/stage2.yaml is a recipe of stage 2; this is stage 1" in done.stderr
    assert done.stderr.count("\n") == 1
