import dataclasses
import re
from pathlib import Path

import pytest

from vlv.config import (
    CaptionConfig,
    ConfigError,
    ReconstructConfig,
    Stage1Config,
    Stage2Config,
    describe,
    load_config,
    save_config,
)
from vlv.settings import resolve_config

KINDS = [Stage1Config, Stage2Config, CaptionConfig, ReconstructConfig]
KINDS_BY_NAME = dict(zip(("stage1", "stage2", "caption", "reconstruct"), KINDS, strict=True))
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_command_line_beats_yaml_beats_default(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1.0e-3\nnum_steps: 7\n")
    config = load_config(Stage1Config, path, ["num_steps=9"])
    assert (config.lr, config.num_steps, config.global_batch_size) == (1e-3, 9, 64)


def test_a_former_name_of_a_setting_is_taken_and_written_as_the_present_one(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("language_model: Qwen/one\nflorence2: a/b\n")
    resolved = resolve_config(CaptionConfig, path, ["language_model=Qwen/two"])
    assert (resolved.config.qwen_model, resolved.config.florence2_model_path) == ("Qwen/two", "a/b")
    assert "qwen_model: Qwen/two  # the call" in resolved.as_yaml()
    assert "language_model" not in resolved.as_yaml()
    with pytest.raises(ConfigError, match="unknown key 'decoder'"):  # it is the demo's
        load_config(CaptionConfig, None, ["decoder=x"])


def test_environment_is_read_where_yaml_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_RUN", "from_env")
    path = tmp_path / "c.yaml"
    path.write_text("run_name: ${oc.env:MY_RUN,none}\n")
    assert load_config(Stage1Config, path, []).run_name == "from_env"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lrr=1", ["'lrr'", "lr?", "command line"]),
        ("lr=fast", ["lr", "fast"]),
        ("lr=-1", ["lr=-1", "positive"]),
        ("train=half", ["train", "half", "decoder_only"]),
        ("num_steps", ["num_steps", "key=value"]),
        ("betas=[0.9]", ["betas"]),
        ("betas=[0.9", ["betas=[0.9", "close every bracket"]),
        ("lr='1", ["lr='1", "number"]),
        ("dropout=1.5", ["dropout"]),
        ("seed=18446744073709551616", ["seed=18446744073709551616", "less than 2**63"]),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(override, words):
    with pytest.raises(ConfigError) as failure:
        load_config(Stage1Config, None, [override])
    message = str(failure.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_unknown_key_in_yaml_names_the_file(tmp_path):
    path = tmp_path / "typo.yaml"
    path.write_text("global_batchsize: 8\n")
    with pytest.raises(ConfigError, match=r"typo\.yaml.*did you mean global_batch_size"):
        load_config(Stage1Config, path, [])


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        load_config(Stage1Config, tmp_path / "none.yaml", [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("lr: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(Stage1Config, broken, [])


def test_paths_are_taken_as_they_stand():
    config = load_config(Stage1Config, None, ["train_dataset_path=/data/a=b, [c]{d}", "run_name=007"])
    assert config.train_dataset_path == "/data/a=b, [c]{d}"
    assert config.run_name == "007"


@pytest.mark.parametrize("path", ["/data/${x}/a", "${run_name}", r"a\${x}", r"a\\${x}", "a${", "a$b{c}", r"a\b"])
def test_a_path_with_an_interpolation_in_it_is_taken_as_it_stands_and_saved_so(path, tmp_path):
    config = load_config(Stage1Config, None, [f"train_dataset_path={path}"])
    assert config.train_dataset_path == path
    save_config(config, tmp_path / "c.yaml")
    assert load_config(Stage1Config, tmp_path / "c.yaml", []) == config


def test_null_and_lists():
    config = load_config(Stage2Config, None, ["epochs=null", "train=[mlp,llm]", "resume=null"])
    assert (config.epochs, config.train, config.resume) == (None, ["mlp", "llm"], None)


@pytest.mark.parametrize(
    ("setting", "part"),
    [("diffusion_weight=3", "encoder"), ("encoder_lr=1e-4", "encoder"), ("projector_lr=1e-3", "mlp")],
)
def test_stage2_refuses_a_setting_of_a_part_that_does_not_train(setting, part):
    with pytest.raises(ConfigError, match=f"add {part} to train"):
        load_config(Stage2Config, None, [setting, "train=[llm]"])


@pytest.mark.parametrize("setting", ["noise_draws=0", "region_blocks=-1", "bart_lr=0"])
def test_stage1_refuses_what_trains_nothing(setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        load_config(Stage1Config, None, [setting])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_config_loads_to_the_same(kind, tmp_path):
    config = load_config(kind, None, [])
    save_config(config, tmp_path / "c.yaml")
    assert load_config(kind, tmp_path / "c.yaml", []) == config


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_documented(kind):
    text = describe(kind)
    for field in dataclasses.fields(kind):
        assert f"{field.name}=" in text
        assert len(field.metadata["doc"]) > 10


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_says_what_it_is(recipe):
    load_config(KINDS_BY_NAME[recipe.stem.split("_")[0]], recipe, [])
    assert recipe.read_text().startswith("# ")


@pytest.mark.parametrize("member", ["", "_sd15", "_sd21_v", "_sdxl", "_sd35_medium", "_sd35_large"])
def test_each_decoder_has_a_recipe_of_both_stages_with_its_cost(member):
    stage1, stage2 = (CONFIGS / f"{stage}{member}.yaml" for stage in ("stage1", "stage2"))
    first = load_config(Stage1Config, stage1, [])
    assert load_config(Stage2Config, stage2, []).diffusion_model_path == f"./outputs/{first.run_name}/final"
    text = stage2.read_text()
    assert "# Memory (derived):" in text
    assert "TFLOP a pair" in text
    # What the header plans is what the table in docs/decoders.md has.
    decoder = Path(first.stable_diffusion_model_path).name
    table = (CONFIGS.parent / "docs" / "decoders.md").read_text()
    row = re.search(rf"^\| {decoder} \| {first.decoder_resolution} \| text_encoder \|(.*)\|$", table, re.MULTILINE)
    frozen, trained, forward, backward, fixed, whole, again, *_ = (cell.strip() for cell in row[1].split("|"))
    size = again if first.gradient_checkpointing == "on" else whole
    text = stage1.read_text()
    assert f"{frozen} B frozen, {trained} M trained" in text
    assert f"{forward} + {backward} TFLOP an image" in text
    assert f"{fixed} GiB fixed and {size} GiB an image" in text
    micro_batch = first.global_batch_size // first.num_gpus
    assert f"so {float(fixed) + micro_batch * float(size):.0f} GiB at the micro-batch of {micro_batch}" in text


@pytest.mark.parametrize(
    ("kind", "stage", "differing"),
    [
        (
            Stage1Config,
            "stage1",
            {"lr_schedule_steps", "head_init", "encoder_view", "convert_profiles", "read_truncated"},
        ),
        (
            Stage2Config,
            "stage2",
            {
                "lr_schedule_steps",
                "supervise_eos",
                "total_steps",
                "betas",
                "max_grad_norm",
                "projector_init",
                "token_mean",
                "encoder_view",
                "convert_profiles",
                "read_truncated",
            },
        ),
    ],
)
def test_as_published_differs_from_the_paper_where_the_docs_say(kind, stage, differing):
    """docs/checkpoints.md has a table of these."""
    paper, published = (
        dataclasses.asdict(load_config(kind, f"configs/{stage}_{name}.yaml", [])) for name in ("paper", "as_published")
    )
    found = {key for key in paper if paper[key] != published[key]}
    assert found - {"diffusion_model_path"} == differing | {"run_name", "output_dir"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lr: fast", "lr=fast cannot be used: give a number"),
        ("lr: null", "lr=null cannot be used: give a number"),
        ("lr: -1", "lr=-1.0 cannot be used: give a positive learning rate"),
        ("num_steps: 1.5", "num_steps=1.5 cannot be used: give a whole number"),
        ("betas: {a: 1}", "give a list of numbers, as in betas=[0.9,0.99]"),
        ("wandb_mode: on", "give one of off, online, offline"),
        ("dry_run: maybe", "give true or false"),
        ("t5_dtype: fp8", "give one of bf16, int8, or null"),
        ("output_dir: ${run}/x", "cannot be resolved"),
    ],
)
def test_a_bad_value_of_a_file_names_the_file_and_what_is_accepted(tmp_path, line, words):
    path = tmp_path / "mine.yaml"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError) as failure:
        load_config(Stage1Config, path, [])
    assert words in str(failure.value)
    assert f"(in {path})" in str(failure.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- 1\n", "holds no settings"),
        (b"3\n", "holds no settings"),
        (b"\xff\x00", "is not a text file"),
        (b"lr: 1\nlr: 2\n", "line 2: found duplicate key lr"),
        (b"output_dir: ${\n", "not closed"),
        (b"dataset_path: x\n", "is a recipe of stage 2; this is stage 1"),
    ],
)
def test_a_file_that_is_no_recipe_is_called_what_it_is(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_config(Stage1Config, path, [])


@pytest.mark.parametrize(
    ("kind", "override", "value"),
    [
        (Stage1Config, "num_steps=1e4", 10000),
        (Stage1Config, "seed=9007199254740993", 2**53 + 1),
        (Stage1Config, "wandb_mode=off", "off"),
        (Stage1Config, "betas=0.9 0.95", [0.9, 0.95]),
        (Stage2Config, "train=mlp", ["mlp"]),
        (Stage2Config, "epochs=3", 3.0),
        (ReconstructConfig, "seeds=1 2 3", [1, 2, 3]),
        (ReconstructConfig, "seeds=1,2", [1, 2]),
        (ReconstructConfig, "seeds=[7]", [7]),
    ],
)
def test_values_as_a_shell_gives_them(kind, override, value):
    found = getattr(load_config(kind, None, [override]), override.partition("=")[0])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("given", "read"), [("true", "on"), ("on", "on"), ("no", "off"), ("False", "off")])
def test_what_is_on_or_off_can_be_true_or_false(tmp_path, given, read):
    (tmp_path / "mine.yaml").write_text(f"gradient_checkpointing: {given}\n")
    assert load_config(Stage1Config, tmp_path / "mine.yaml", []).gradient_checkpointing == read
    assert load_config(Stage1Config, None, [f"gradient_checkpointing={given}"]).gradient_checkpointing == read
    with pytest.raises(ConfigError, match="give one of auto, on, off"):
        load_config(Stage1Config, None, ["gradient_checkpointing=2"])


def test_yaml_reads_off_as_a_truth_value_but_the_setting_does_not(tmp_path):
    (tmp_path / "mine.yaml").write_text("wandb_mode: off\nlr: 5e-5\nrun_name: 2026\n")
    config = load_config(Stage1Config, tmp_path / "mine.yaml", [])
    assert (config.wandb_mode, config.lr, config.run_name) == ("off", 5e-5, "2026")


def test_home_is_expanded_and_streams_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = ["train_dataset_path=pipe:cat ~/a.tar", "output_dir=~/run", "florence2_model_path=owner/name"]
    config = load_config(Stage1Config, None, paths)
    assert config.train_dataset_path == "pipe:cat ~/a.tar"
    assert config.output_dir == str(tmp_path / "run")
    assert config.florence2_model_path == "owner/name"


def test_who_gave_each_value_is_kept(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1e-3\n")
    resolved = resolve_config(Stage1Config, path, ["num_steps=9"])
    assert [resolved.sources[key] for key in ("lr", "num_steps", "seed")] == [str(path), "the call", "default"]
    lines = resolved.as_yaml().splitlines()
    assert f"lr: 0.001  # {path}" in lines
    assert "num_steps: 9  # the call" in lines
    (tmp_path / "again.yaml").write_text(resolved.as_yaml())
    assert load_config(Stage1Config, tmp_path / "again.yaml", []) == resolved.config


def test_help_has_the_recipes_values_choices_and_groups_with_frequent_settings_first():
    text = describe(ReconstructConfig, CONFIGS / "reconstruct_tiny.yaml")
    assert "num_inference_steps=10\n" in text
    assert "\n      one of auto, ddpm, ddim," in text
    groups = re.findall(r"^(\w.*):$", describe(Stage1Config), re.MULTILINE)
    assert groups == ["most used", "data", "model", "optimisation", "run", "logging"]
    first = text.split("data:\n")[0]
    assert all(f"  {name}=" in first for name in ("image_path", "ckpt_dir", "output_dir", "seeds"))
