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

KINDS = [Stage1Config, Stage2Config, CaptionConfig, ReconstructConfig]
KINDS_BY_NAME = dict(zip(("stage1", "stage2", "caption", "reconstruct"), KINDS, strict=True))
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_command_line_beats_yaml_beats_default(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1.0e-3\nnum_steps: 7\n")
    config = load_config(Stage1Config, path, ["num_steps=9"])
    assert (config.lr, config.num_steps, config.global_batch_size) == (1e-3, 9, 64)


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
    size = again if first.gradient_checkpointing else whole
    text = stage1.read_text()
    assert f"{frozen} B frozen, {trained} M trained" in text
    assert f"{forward} + {backward} TFLOP an image" in text
    assert f"{fixed} GiB fixed and {size} GiB an image" in text
    micro_batch = first.global_batch_size // first.num_gpus
    assert f"so {float(fixed) + micro_batch * float(size):.0f} GiB at the micro-batch of {micro_batch}" in text


@pytest.mark.parametrize(
    ("kind", "stage", "differing"),
    [
        (Stage1Config, "stage1", {"lr_schedule_steps", "head_init"}),
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
