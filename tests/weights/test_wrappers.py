"""State dicts inside what people put around them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights import model_from_state_dict, state_dict_from_model
from anchordetr_jax.weights.architecture import heads_kept_once
from anchordetr_jax.weights.state_dict_file import is_official_file, read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file
from anchordetr_jax.weights.wrappers import ENTRIES, PREFIXES, bare_names
from tests.weights.conftest import SMALL, random_state_dict

PLAIN = {"weight": np.arange(3, dtype=np.float32), "bias": np.ones(1, np.float32)}
OTHER = {name: array + 1 for name, array in PLAIN.items()}


def written(path: Path, content: Any) -> Path:
    write_torch_file(path, content)
    return path


def prefixed(prefix: str, tensors: dict[str, np.ndarray] = PLAIN) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in tensors.items()}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_state_dict_is_found_in_each_entry_and_the_place_is_said(entry: str, tmp_path: Path) -> None:
    found = read_state_dict(written(tmp_path / "f.pth", {entry: PLAIN, "epoch": 3}))
    assert found.state_dict.keys() == PLAIN.keys()
    assert any(f"'{entry}'" in remark for remark in found.remarks) == (entry != "model")


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._orig_mod.", "model.module.", "_orig_mod.model.detr."])
def test_prefixes_are_removed_and_said(prefix: str, tmp_path: Path) -> None:
    found = read_state_dict(written(tmp_path / "f.pth", {"state_dict": prefixed(prefix)}))
    assert found.state_dict.keys() == PLAIN.keys()
    assert any("Prefixes of its tensor names were removed" in remark for remark in found.remarks)


@given(st.lists(st.sampled_from(list(PREFIXES)), max_size=4))
def test_any_order_of_prefixes_is_removed(prefixes: list[str]) -> None:
    names = bare_names([f"{''.join(prefixes)}{name}" for name in ("backbone.a", "transformer.b", "input_proj.c")])
    assert list(names.originals) == ["backbone.a", "transformer.b", "input_proj.c"]
    assert names.duplicates == ()


def test_a_compiled_part_of_a_model_is_found() -> None:
    names = bare_names(["backbone._orig_mod.a", "transformer.b", "transformer.c"])
    assert list(names.originals) == ["backbone.a", "transformer.b", "transformer.c"]


@pytest.mark.parametrize("ema", [{"ema": OTHER}, {"model_ema": OTHER}, {"ema": {"module": OTHER, "updates": 5}}])
def test_weights_or_their_average_is_asked_and_never_guessed(ema: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "f.pth", {"model": PLAIN, **ema})
    name = next(iter(ema))
    with pytest.raises(UserError, match=rf"several sets of weights: 'model' \(weights\), '{name}") as error:
        read_state_dict(path)
    assert f"{path}#model or {path}#{name}" in str(error.value)
    np.testing.assert_array_equal(read_state_dict(f"{path}#model").state_dict["weight"], PLAIN["weight"])
    np.testing.assert_array_equal(read_state_dict(f"{path}#{name}").state_dict["weight"], OTHER["weight"])


@pytest.mark.parametrize("first", ["model", "student"])
def test_a_second_set_in_an_entry_of_another_name_is_never_passed_over(first: str, tmp_path: Path) -> None:
    path = written(tmp_path / "f.pth", {first: PLAIN, "teacher": prefixed("module.", OTHER)})
    with pytest.raises(UserError, match=rf"several sets of weights: '{first}' .*, 'teacher' \(of an unknown kind\)"):
        read_state_dict(path)
    np.testing.assert_array_equal(read_state_dict(f"{path}#{first}").state_dict["weight"], PLAIN["weight"])
    np.testing.assert_array_equal(read_state_dict(f"{path}#teacher").state_dict["weight"], OTHER["weight"])


def test_weights_in_an_entry_of_another_name_are_taken_when_it_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.pth", {"net": PLAIN, "epoch": 3})
    with pytest.raises(UserError, match=r"weights in an entry 'net', which is not known: say .*f\.pth#net"):
        read_state_dict(path)
    found = read_state_dict(f"{path}#net")
    assert found.state_dict.keys() == PLAIN.keys()
    assert any("'net'" in remark for remark in found.remarks)


def test_tensors_of_another_kind_beside_the_weights_are_no_second_set(tmp_path: Path) -> None:
    path = written(tmp_path / "f.pth", {"model": PLAIN, "statistics": {"mean": PLAIN["weight"]}})
    assert read_state_dict(path).state_dict.keys() == PLAIN.keys()


def test_an_entry_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.pth", {"model": PLAIN, "ema": None})
    assert read_state_dict(path).state_dict.keys() == PLAIN.keys()
    with pytest.raises(UserError, match="no weights in an entry 'ema'; entries with weights: 'model'"):
        read_state_dict(f"{path}#ema")


def test_tensors_that_save_model_keeps_once_are_found_under_all_their_names(tmp_path: Path) -> None:
    tensors = random_state_dict()
    shared = {name: name.replace("embed.1.", "embed.0.") for name in tensors if "_embed.1." in name}
    once = {name: array for name, array in tensors.items() if name not in shared}
    safetensors.numpy.save_file(once, tmp_path / "f.safetensors", metadata=shared)
    found = read_state_dict(tmp_path / "f.safetensors")
    assert found.state_dict.keys() == tensors.keys()
    assert any(f"{len(shared)} of its tensors are kept once" in remark for remark in found.remarks)


def test_shared_heads_that_are_there_once_are_filled_in_and_said_also_without_metadata(tmp_path: Path) -> None:
    tensors = random_state_dict()
    once = {f"model.{name}": array for name, array in tensors.items() if "_embed.1." not in name}
    safetensors.numpy.save_file(once, tmp_path / "f.safetensors")
    found = read_state_dict(tmp_path / "f.safetensors")
    assert found.state_dict.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found.state_dict[name], array)
    assert any("their 8 tensors of the other decoder layers were filled in" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "lost", ["transformer.class_embed.0.bias", "transformer.pattern.weight", "input_proj.0.0.bias"]
)
def test_other_tensors_are_never_filled_in(lost: str, tmp_path: Path) -> None:
    once = {name: array for name, array in random_state_dict().items() if "_embed.1." not in name and name != lost}
    safetensors.numpy.save_file(once, tmp_path / "f.safetensors")
    assert lost not in read_state_dict(tmp_path / "f.safetensors").state_dict


def test_a_head_with_some_of_its_copies_is_incomplete() -> None:
    config = dataclasses.replace(SMALL, decoder_layers=3)
    tensors = {name: array for name, array in random_state_dict(config).items() if "class_embed.1." not in name}
    assert heads_kept_once(tensors) == {}


@pytest.mark.torch
def test_a_file_of_save_model_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_model

    head = torch.nn.Linear(2, 3)
    save_model(torch.nn.ModuleDict({"a": head, "b": head}), str(tmp_path / "f.safetensors"))
    found = read_state_dict(tmp_path / "f.safetensors").state_dict
    assert sorted(found) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    np.testing.assert_array_equal(found["a.weight"], found["b.weight"])


@pytest.mark.usefixtures("small_resnet")
def test_a_wrapped_state_dict_makes_the_same_model() -> None:
    tensors = random_state_dict()
    model = model_from_state_dict(prefixed("module._orig_mod.", tensors), dilated=True)
    for name, array in state_dict_from_model(model).items():
        np.testing.assert_array_equal(array, tensors[name])


@pytest.mark.usefixtures("small_resnet")
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused_and_named(bad: float) -> None:
    tensors = random_state_dict()
    name = "transformer.decoder_layers.1.norm1.weight"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][3] = bad
    with pytest.raises(UserError, match=rf"{name} has 1 numbers of 32 that are not finite"):
        model_from_state_dict(tensors, dilated=True)


@pytest.mark.usefixtures("small_resnet")
def test_only_plain_official_files_go_to_the_official_code_as_they_are(tmp_path: Path) -> None:
    tensors = random_state_dict()
    assert is_official_file(written(tmp_path / "a.pth", {"model": tensors}))
    assert not is_official_file(written(tmp_path / "b.pth", {"state_dict": tensors}))
    assert not is_official_file(written(tmp_path / "c.pth", {"model": prefixed("module.", tensors)}))
