"""Which folders the wheel is made of. All else is in pyproject.toml.

The presets stay in `configs/`, where everybody looks for them. A wheel holds them inside the package. An editable
install needs no copy: `experiments.presets_folder` finds the folder of the clone.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["anchordetr_jax*"]), "anchordetr_jax.presets"],
    package_dir={"anchordetr_jax.presets": "configs"},
    package_data={"anchordetr_jax": ["py.typed"]},
)
