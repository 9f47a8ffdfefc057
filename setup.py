"""Which folders the wheel is made of. All else is in pyproject.toml.

The presets stay in `configs/`, where everybody looks for them, and the detector that they begin with in `assets/`. A
wheel holds both inside the package. An editable install needs no copy: `files.packaged_folder` finds the folders of
the clone.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["anchordetr_jax*"]), "anchordetr_jax.presets", "anchordetr_jax.assets"],
    package_dir={"anchordetr_jax.presets": "configs", "anchordetr_jax.assets": "assets"},
    package_data={"anchordetr_jax": ["py.typed"], "anchordetr_jax.assets": ["**/*"]},
)
