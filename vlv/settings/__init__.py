"""How settings are declared, loaded, checked, saved and described; knows no recipe.

Loads neither torch nor transformers: `--help` and the checks of a call stay quick.
"""

from vlv.settings.declare import ConfigError, option, recipe, require
from vlv.settings.help import describe
from vlv.settings.loading import Resolved, load_config, resolve_config, save_config

__all__ = [
    "ConfigError",
    "Resolved",
    "describe",
    "load_config",
    "option",
    "recipe",
    "require",
    "resolve_config",
    "save_config",
]
