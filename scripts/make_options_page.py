"""Writes docs/options.md from the declared settings and the recipes in configs/.

`python -m scripts.make_options_page` after a setting or a recipe has changed; a test holds the page up to date.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from vlv.cli.doctor import DoctorConfig
from vlv.cli.download import DownloadConfig
from vlv.cli.export_checkpoint import ExportConfig
from vlv.cli.export_gguf import ExportGGUFConfig
from vlv.cli.import_checkpoint import ImportConfig
from vlv.cli.inspect_checkpoint import InspectConfig
from vlv.cli.quickstart import QuickstartConfig
from vlv.config import (
    BenchmarkAllConfig,
    BenchmarkDataConfig,
    BenchmarkGrowthConfig,
    BenchmarkIndexConfig,
    BenchmarkSaveConfig,
    BenchmarkSpeedConfig,
    BenchmarkStartupConfig,
    CaptionApiConfig,
    CaptionConfig,
    ChaosConfig,
    DemoConfig,
    InspectDataConfig,
    LatentsConfig,
    ReconstructConfig,
    ServeConfig,
    ShardsConfig,
    Stage1Config,
    Stage2Config,
)
from vlv.settings.declare import Group, Setting, settings_of, shown
from vlv.settings.help import FREQUENT
from vlv.settings.loading import recipe_values

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
INTRO = """\
# Options
<!-- Written by `python -m scripts.make_options_page`; edit vlv/config or the recipes instead. -->
Every setting of every command. A setting has one name everywhere: in a recipe (`lr: 1e-4`), in the launcher's
environment and on the command line (`lr=1e-4`).

The order is: the code's default, over it the recipe, over it what you edited in the launcher or set in its environment,
over it `key=value` on the command line. `null` means that nothing is set. `vlv COMMAND --help` prints the same.
"""


@dataclass(frozen=True)
class Command:
    """A command, its settings, and the launcher that calls it, where there is one."""

    name: str
    config: type
    launcher: str = ""

    @property
    def recipe(self) -> Path | None:
        """The recipe that runs where no other is named."""
        return ROOT / "configs" / f"{self.name}.yaml" if self.launcher else None

    def recipes(self) -> list[Path]:
        """Every recipe of this command in configs/, the default one first."""
        return sorted(ROOT.glob(f"configs/{self.name}*.yaml"), key=lambda path: (path != self.recipe, path.name))


COMMANDS = (
    Command("stage1", Stage1Config, "train_stage1.sh"),
    Command("stage2", Stage2Config, "train_stage2.sh"),
    Command("caption", CaptionConfig, "Caption_inference.sh"),
    Command("reconstruct", ReconstructConfig, "Image_inference.sh"),
    Command("import", ImportConfig),
    Command("export", ExportConfig),
    Command("export gguf", ExportGGUFConfig),
    Command("inspect", InspectConfig),
    Command("data caption", CaptionApiConfig),
    Command("data inspect", InspectDataConfig),
    Command("data latents", LatentsConfig),
    Command("data shards", ShardsConfig),
    Command("serve", ServeConfig),
    Command("demo", DemoConfig),
    Command("doctor", DoctorConfig),
    Command("benchmark all", BenchmarkAllConfig),
    Command("benchmark data", BenchmarkDataConfig),
    Command("benchmark growth", BenchmarkGrowthConfig),
    Command("benchmark index", BenchmarkIndexConfig),
    *(Command(f"benchmark {suite}", BenchmarkSpeedConfig) for suite in ("stage1", "stage2", "caption", "reconstruct")),
    Command("benchmark startup", BenchmarkStartupConfig),
    Command("benchmark save", BenchmarkSaveConfig),
    Command("chaos", ChaosConfig),
    Command("download", DownloadConfig),
    Command("quickstart", QuickstartConfig),
)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(f"written: {PAGE.relative_to(ROOT)}")


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRO, *("\n".join(section(command)) for command in COMMANDS)])


def section(command: Command) -> Iterator[str]:
    """One command: its settings in groups, then what each of its recipes sets."""
    settings = settings_of(command.config)
    yield f"## {command.name}"
    if command.recipe is None:
        yield f"`vlv {command.name}`"
        groups = typing.get_args(Group)  # as `--help` has them: those of a mixin come after a command's own
        ordered = sorted(settings.values(), key=lambda setting: groups.index(setting.group))
        yield from table(ordered, {name: setting.default for name, setting in settings.items()})
        return
    defaults = recipe_values(command.config, command.recipe)
    yield f"`vlv {command.name}` or `bash {command.launcher}`."
    yield f"Its default recipe is `configs/{command.recipe.name}`; the defaults below are with it."
    yield ""
    for group in (FREQUENT, *typing.get_args(Group)):
        members = [item for item in settings.values() if group == (FREQUENT if item.frequent else item.group)]
        if members:
            yield f"### {command.name}: {group}"
            yield from table(members, defaults)
    yield f"### Recipes of {command.name}"
    yield "| recipe | what it sets otherwise |"
    yield "| --- | --- |"
    for path in command.recipes():
        values = recipe_values(command.config, path)
        written = yaml.safe_load(path.read_text()) or {}  # not what follows from it, as output_dir from run_name
        changes = {name: values[name] for name in written if values[name] != defaults[name]}
        text = ", ".join(f"`{name}={shown(value)}`" for name, value in changes.items())
        yield f"| `configs/{path.name}` | {cell(text) or 'the defaults'} |"
    yield ""


def table(settings: typing.Iterable[Setting], defaults: typing.Mapping[str, object]) -> Iterator[str]:
    """Settings with their defaults and meanings."""
    yield ""
    yield "| option | default | meaning |"
    yield "| --- | --- | --- |"
    for setting in settings:
        meaning = f"{setting.doc}; one of {', '.join(setting.choices)}" if setting.choices else setting.doc
        default = shown(defaults[setting.name])
        yield f"| `{setting.name}` | {f'`{cell(default)}`' if default else ''} | {cell(meaning)} |"
    yield ""


def cell(text: str) -> str:
    """Text in a table: a bar would end the cell, and `<folder>` would be taken for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
