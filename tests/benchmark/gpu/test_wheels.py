"""What a GPU machine without a network lacks."""

from pathlib import Path

from anchordetr_jax.benchmark.gpu.wheels import ROOT, lacking, missing, pinned_versions


def test_what_is_lacking_is_pinned_and_leaves_out_what_such_a_machine_has() -> None:
    names = [requirement.partition("==")[0] for requirement in lacking()]
    assert {"grain", "ml-collections", "pycocotools", "torchvision"} <= set(names)
    assert not {"jax", "jaxlib", "flax", "numpy", "torch", "tensorflow-datasets", "pyarrow"} & set(names)
    assert all("==" in requirement for requirement in lacking())


def test_versions_are_those_for_the_python_of_such_a_machine() -> None:
    assert pinned_versions(ROOT / "requirements.txt")["jax"].startswith("0.11.")


def test_only_wheels_of_packages_that_are_not_installed_are_missing(tmp_path: Path) -> None:
    for name in ("numpy-9.9.9-py3-none-any.whl", "no_such_thing-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert missing(tmp_path) == ["no_such_thing==1.0"]
