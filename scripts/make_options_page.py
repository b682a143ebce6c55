"""Writes docs/options.md from the settings' dataclasses and the recipes in configs/.

`python -m scripts.make_options_page` after a setting or a recipe has changed; a test holds the page up to date.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from vlv.config import CaptionConfig, ReconstructConfig, Stage1Config, Stage2Config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
INTRO = """\
# Options
<!-- Written by `python -m scripts.make_options_page`; edit vlv/config/ or the recipes instead. -->
Every setting of the four commands that take a recipe. A setting has one name everywhere: in a recipe (`lr: 1e-4`), in
the launcher's environment and on the command line (`lr=1e-4`).

The order is: the code's default, over it the recipe, over it what you edited in the launcher or set in its environment,
over it `key=value` on the command line. `null` means that nothing is set.
"""


@dataclass(frozen=True)
class Command:
    """One of the commands that take a recipe."""

    name: str
    config: type
    launcher: str

    @property
    def recipe(self) -> Path:
        """The recipe that runs where no other is named."""
        return ROOT / "configs" / f"{self.name}.yaml"

    def recipes(self) -> list[Path]:
        """Every recipe of this command in configs/, the default one first."""
        return sorted(ROOT.glob(f"configs/{self.name}*.yaml"), key=lambda path: (path != self.recipe, path.name))


COMMANDS = (
    Command("stage1", Stage1Config, "train_stage1.sh"),
    Command("stage2", Stage2Config, "train_stage2.sh"),
    Command("caption", CaptionConfig, "Caption_inference.sh"),
    Command("reconstruct", ReconstructConfig, "Image_inference.sh"),
)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(f"written: {PAGE.relative_to(ROOT)}")


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRO, *(section(command) for command in COMMANDS)])


def section(command: Command) -> str:
    """One command: its options, then what each of its recipes sets."""
    fields = dataclasses.fields(command.config)
    defaults = {item.name: default_of(item) for item in fields} | read_recipe(command.recipe)
    lines = [
        f"## {command.name}",
        f"`vlv {command.name}` or `bash {command.launcher}`.",
        f"Its default recipe is `configs/{command.recipe.name}`; the defaults below are with it.",
        "",
        "| option | default | meaning |",
        "| --- | --- | --- |",
    ]
    for item in fields:
        meaning = f"{item.metadata['doc']}{choices_of(command.config, item.name)}"
        lines.append(f"| `{item.name}` | {written(defaults[item.name])} | {cell(meaning)} |")
    lines += ["", f"### Recipes of {command.name}", "", "| recipe | what it sets otherwise |", "| --- | --- |"]
    for path in command.recipes():
        changes = {key: value for key, value in read_recipe(path).items() if value != defaults[key]}
        text = ", ".join(f"`{key}={plain(value)}`" for key, value in changes.items())
        lines.append(f"| `configs/{path.name}` | {cell(text) or 'the defaults'} |")
    return "\n".join([*lines, ""])


def read_recipe(path: Path) -> dict[str, object]:
    """What a recipe sets, as YAML reads it."""
    return yaml.safe_load(path.read_text()) or {}


def default_of(item: dataclasses.Field[object]) -> object:
    """The code's default of a setting."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


def choices_of(config: type, name: str) -> str:
    """The values that an enumerated setting takes, or nothing."""
    hint = typing.get_type_hints(config)[name]
    for part in (hint, *typing.get_args(hint)):
        if typing.get_origin(part) is typing.Literal:
            return f"; one of {', '.join(f'`{choice}`' for choice in typing.get_args(part))}"
    return ""


def plain(value: object) -> str:
    """A value as it is written after `key=`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(plain(item) for item in value)}]"
    return str(value)


def written(value: object) -> str:
    """A value as code in a table."""
    return f"`{cell(plain(value))}`"


def cell(text: str) -> str:
    """Text in a table: a bar would end the cell, and `<folder>` would be taken for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
