"""Where the files that come with the project lie: recipes, sample images, the components of the small world.

In a clone they are its own `configs/` and `assets/`, which users edit; an installed wheel holds the same files as
`vlv/configs` and `vlv/assets`. The build maps the one to the other, so there is one source and nothing to keep in step.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def is_checkout() -> bool:
    """Whether this package runs from a clone, by PYTHONPATH or an editable install."""
    # pyproject.toml too: a folder named configs may lie beside an installed package by chance.
    return (_PACKAGE.parent / "pyproject.toml").is_file() and (_PACKAGE.parent / "configs").is_dir()


def recipes_folder() -> Path:
    """Folder of the recipes (`stage1.yaml`), with `accelerate/` and the full-size `components/`' configs in it."""
    return _data_folder("configs")


def assets_folder() -> Path:
    """Folder of the sample images with their captions, and of the small world's components (`tiny/`)."""
    return _data_folder("assets")


def project_folder() -> Path:
    """Folder that relative paths of shipped recipes start from: the clone, or without one the current folder."""
    return _PACKAGE.parent if is_checkout() else Path.cwd()


def find_recipe(name: str) -> Path:
    """A recipe by path, or by its name among those that are shipped; a path that is nowhere comes back as given."""
    given = Path(name)
    if given.is_file() or given.is_absolute():
        return given
    for shipped in (recipes_folder() / name, recipes_folder() / f"{name}.yaml", recipes_folder().parent / name):
        if shipped.is_file():
            return shipped
    return given


def _data_folder(name: str) -> Path:
    return (_PACKAGE.parent if is_checkout() else _PACKAGE) / name
