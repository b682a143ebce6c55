"""Who may import whom, held by reading every import statement, those inside functions too."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "vlv").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
STANDARD = set(sys.stdlib_module_names)

# part -> (parts of vlv that it may import, third-party packages that it must not)
RUNNERS = {"wandb", "accelerate", "torchmetrics", "webdataset"}

RULES = {
    "losses": (set(), set()),
    "sampling": (set(), set()),
    "__main__": ({"cli"}, {"torch", "transformers", "diffusers"}),
    "resources": (set(), {"torch", "transformers", "diffusers", "omegaconf"}),
    "redaction": (set(), {"torch", "transformers", "diffusers"}),
    "settings": ({"settings", "redaction", "resources"}, {"torch", "transformers", "diffusers"}),
    "config": ({"config", "settings", "data", "redaction"}, {"torch", "transformers", "diffusers"}),
    "limits": (set(), {"torch", "transformers", "diffusers"}),
    "batch": (set(), {"torch", "transformers", "diffusers"}),
    "memory": (set(), {"torch", "transformers", "diffusers"}),
    "whitening": (set(), {"transformers", "diffusers"}),
    "kept_results": (set(), {"transformers", "diffusers"}),
    "colour": (set(), {"torch", "transformers", "diffusers"}),
    "orphans": (set(), {"torch", "transformers", "diffusers"}),
    "extras": (set(), {"torch", "transformers", "diffusers"}),
    "progress": (set(), {"torch", "transformers", "diffusers"}),
    "frozen": (set(), RUNNERS),
    "attention": (set(), {*RUNNERS, "diffusers"}),
    "atomic": (set(), {"torch", "transformers", "diffusers"}),
    "checkpoints": ({"checkpoints", "atomic", "redaction"}, RUNNERS),
    "encoders": (
        {"encoders", "attention", "checkpoints", "decoders", "frozen", "limits", "whitening", "kept_results"},
        RUNNERS,
    ),
    "decoders": ({"decoders", "checkpoints", "frozen", "limits", "losses", "sampling", "kept_results"}, RUNNERS),
    "models": (
        {
            "models",
            "attention",
            "encoders",
            "extras",
            "decoders",
            "checkpoints",
            "frozen",
            "limits",
            "losses",
            "sampling",
            "batch",
            "colour",
            "whitening",
        },
        RUNNERS,
    ),
    "llamacpp": ({"llamacpp", "atomic", "checkpoints", "models"}, {*RUNNERS, "diffusers"}),
    "published": ({"published", "atomic", "models", "encoders", "decoders", "checkpoints", "frozen"}, RUNNERS),
    "data": (
        {"data", "batch", "losses", "atomic", "orphans", "progress", "redaction"},
        {"wandb", "accelerate", "diffusers", "transformers"},
    ),
    "training": ({"training", "memory", "atomic", "checkpoints", "redaction"}, {"diffusers", "transformers"}),
    "evaluation": ({"evaluation"}, {"wandb", "accelerate", "diffusers", "transformers"}),
    "inference": (
        {
            "inference",
            "models",
            "data",
            "evaluation",
            "sampling",
            "checkpoints",
            "memory",
            "atomic",
            "batch",
            "progress",
            "redaction",
        },
        {"wandb", "accelerate"},
    ),
    "recipes": (
        {
            "recipes",
            "attention",
            "config",
            "settings",
            "redaction",
            "resources",
            "models",
            "encoders",
            "decoders",
            "checkpoints",
            "data",
            "datatools",
            "training",
            "inference",
            "evaluation",
            "planning",
            "losses",
            "frozen",
            "atomic",
            "batch",
            "memory",
            "whitening",
            "kept_results",
            "llamacpp",
            "vllm",
        },
        {"diffusers", "wandb"},
    ),
    "demo": (
        {"demo", "checkpoints", "data", "decoders", "encoders", "models", "sampling", "serving", "shapes"},
        {"accelerate", "diffusers", "wandb"},
    ),
    "serving": ({"serving", "checkpoints", "data", "models", "sampling"}, {"accelerate", "diffusers", "wandb"}),
    "vllm": ({"vllm", "checkpoints", "inference", "models", "orphans"}, {"accelerate", "diffusers", "wandb"}),
    "planning": (
        {"planning", "models", "encoders", "decoders", "resources", "settings", "sampling", "training"},
        {"wandb"},
    ),
    "datatools": (
        {
            "datatools",
            "config",
            "data",
            "colour",
            "atomic",
            "inference",
            "orphans",
            "progress",
            "redaction",
            "settings",
        },
        {"torch", "transformers", "diffusers", "accelerate", "wandb"},
    ),
    "benchmarks": (
        {
            "atomic",
            "batch",
            "benchmarks",
            "checkpoints",
            "config",
            "data",
            "decoders",
            "encoders",
            "inference",
            "losses",
            "models",
            "orphans",
            "progress",
            "recipes",
            "resources",
            "testing",
            "training",
        },
        {"diffusers", "transformers", "wandb"},
    ),
    "chaos": (
        {"chaos", "config", "resources", "shapes"},
        {"torch", "accelerate", "diffusers", "transformers", "wandb"},
    ),
    "cli": (None, {"wandb"}),
    "shapes": (
        {"shapes", "checkpoints", "cli", "config", "data", "recipes", "resources", "settings", "training"},
        {"wandb", "accelerate", "diffusers"},
    ),
    "testing": ({"testing", "checkpoints", "encoders", "decoders"}, RUNNERS),
}


def imports(path):
    """(module, line) of every import of a file that runs; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno


def part_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "vlv" else "scripts"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_rule(path):
    part = part_of(path)
    for module, line in imports(path):
        top, _, rest = module.partition(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {module}"
        assert top != "tests", where
        if part == "scripts":
            continue
        assert top != "scripts", where
        if rest.split(".")[0] == "published":
            # The published layout stays out of the product: its tools alone know it.
            tool = part == "cli" and any(word in path.stem for word in ("import", "export", "inspect"))
            assert part == "published" or tool, where
        if part not in RULES:
            continue
        ours, forbidden = RULES[part]
        if top == "vlv" and rest and ours is not None:
            assert rest.split(".")[0] in ours, where
        assert top not in forbidden, where
        if part in ("losses", "sampling"):
            assert top in STANDARD | {"torch", "__future__"}, where


def test_the_rule_covers_every_part():
    covered = set(RULES) | {"__init__"}
    assert {part_of(path) for path in FILES if part_of(path) != "scripts"} <= covered


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 350  # a wish: what belongs together stays together
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{path.name}:{node.lineno} {node.name}"


def test_requirements_and_pyproject_name_the_same_packages():
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=\[]", item)[0] for item in project["dependencies"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {re.split(r"[<>=\s]", line)[0] for line in lines if line and line[0] != "#"} == names
    assert "torch==2.13.0" in "\n".join(lines)
    assert all("#" in line for line in lines if line), "each requirement has a reason"


def test_every_requirement_is_imported():
    import re

    packages = {"pillow": "PIL", "pyyaml": "yaml", "huggingface_hub": "huggingface_hub"}
    used = {module.split(".")[0] for path in FILES for module, _ in imports(path)}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and line[0] != "#":
            name = re.split(r"[<>=\s]", line)[0]
            assert packages.get(name, name) in used, f"{name} is required and nothing imports it"
