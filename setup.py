"""What a wheel holds: the package, and the clone's `configs/` and `assets/` as `vlv/configs` and `vlv/assets`.

The rest is in pyproject.toml, which has no way to add a folder of another place to the packages that it finds.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vlv", "vlv.*"]), "vlv.configs", "vlv.assets"],
    package_dir={"vlv.configs": "configs", "vlv.assets": "assets"},
    package_data={
        "": ["templates/*"],
        "vlv": ["py.typed"],
        "vlv.configs": ["**/*"],
        "vlv.assets": ["**/*"],
    },
)
