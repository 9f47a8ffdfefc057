"""Detectors in folders and on the Hugging Face Hub."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import yaml

from anchordetr_jax.config import AugmentConfig, Config, EvalConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights import hub
from anchordetr_jax.weights.folder import SavedDetector, read_folder, write_folder
from anchordetr_jax.weights.hub import HubOptions, parse_address
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.saving import CardFacts, push_detector, save_detector
from tests.detector import CATEGORIES, MODEL
from tests.weights.conftest import random_variables

FACTS = CardFacts(license="mit", data="Blood cells (BCCD)", scores={"AP": 0.512345, "AP50": 0.8, "other": 1.0})


def detector(categories: Categories | None = CATEGORIES, **model: Any) -> SavedDetector:
    network = dataclasses.replace(MODEL, **model)
    config = Config(
        model=network, augment=AugmentConfig(eval_size=320, max_size=500), eval=EvalConfig(max_detections=20)
    )
    return SavedDetector(variables=random_variables(network), config=config, categories=categories)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_detector(tmp_path / "cells", detector(), FACTS)
    return tmp_path / "cells"


@pytest.mark.parametrize("categories", [CATEGORIES, None, Categories(ids=(0, 1), names=("a", "b"), scheme="raw")])
def test_a_detector_comes_back_to_the_bit(tmp_path: Path, categories: Categories | None) -> None:
    saved = detector(categories)
    save_detector(tmp_path / "out", saved, CardFacts())
    back = read_folder(tmp_path / "out")
    assert back.variables.keys() == saved.variables.keys()
    for path, value in saved.variables.items():
        assert back.variables[path].tobytes() == value.tobytes()
        assert back.variables[path].dtype == value.dtype
    assert back.config.model == saved.config.model
    assert back.categories == categories
    assert (back.config.augment.eval_size, back.config.augment.max_size) == (320, 500)
    assert back.config.eval.max_detections == 20


@pytest.mark.parametrize("used", ["", {}, "12", [0.0], [True], ["0"], [99]])
def test_used_outputs_that_make_no_sense_are_refused(folder: Path, used: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "used_outputs": used}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_folder(folder)


def test_tensors_have_names_that_a_person_finds(folder: Path) -> None:
    names = safetensors.numpy.load_file(folder / "model.safetensors").keys()
    assert "encoder/spatial/0/attention/query_row/kernel" in names


def test_the_settings_follow_hugging_faces_conventions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert config["label2id"] == {"cat": 0, "dog": 1}
    assert config["image_size"] == {"shortest_edge": 320, "longest_edge": 500}
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    assert preprocessor["size"] == config["image_size"]
    assert preprocessor["image_mean"] == [0.485, 0.456, 0.406]


def test_coco_outputs_keep_their_numbers(tmp_path: Path) -> None:
    save_detector(tmp_path / "coco", detector(coco_categories("raw"), num_classes=91), CardFacts())
    assert json.loads((tmp_path / "coco" / "config.json").read_text())["id2label"]["90"] == "toothbrush"
    assert read_folder(tmp_path / "coco").categories == coco_categories("raw")


def test_the_card_says_what_the_hub_wants_to_know(folder: Path) -> None:
    _, header, body = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(header)
    assert front["library_name"] == "anchordetr_jax"
    assert front["pipeline_tag"] == "object-detection"
    assert (front["license"], front["datasets"]) == ("mit", ["blood-cells-bccd"])
    (entry,) = front["model-index"]
    (results,) = entry["results"]
    assert results["dataset"]["name"] == "Blood cells (BCCD)"
    assert [(metric["name"], metric["value"]) for metric in results["metrics"]] == [("AP", 0.5123), ("AP50", 0.8)]
    assert "Detects 2 classes: cat, dog" in body
    assert "Detector.from_pretrained(" in body


def test_the_card_counts_the_points_of_a_grid(tmp_path: Path) -> None:
    save_detector(tmp_path, detector(spatial_prior="grid", num_anchors=300), CardFacts())
    assert "2 patterns × 289 anchor points" in (tmp_path / "README.md").read_text()


def test_the_card_leaves_out_scores_of_which_there_was_nothing_to_measure(tmp_path: Path) -> None:
    save_detector(tmp_path, detector(), CardFacts(scores={"AP": 0.5, "APs": -1.0}))
    card = (tmp_path / "README.md").read_text()
    assert "APs" not in card
    assert "| AP |" in card


def test_names_that_a_person_changes_are_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"]["1"] = "wolf"
    (folder / "config.json").write_text(json.dumps(config))
    categories = read_folder(folder).categories
    assert categories is not None
    assert categories.names == ("cat", "wolf")


def test_a_folder_or_its_weight_file_is_opened(folder: Path) -> None:
    for path in (folder, folder / "model.safetensors"):
        found = open_pretrained(path)
        assert found.categories == CATEGORIES
        assert found.model().config == MODEL
    with pytest.raises(UserError, match="cells knows its dilation"):
        open_pretrained(folder, dilation=True)


def test_a_second_save_replaces_the_first(folder: Path) -> None:
    save_detector(folder, detector(None), CardFacts())
    assert read_folder(folder).categories is None


def test_a_readme_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My notes\n")
    with pytest.raises(UserError, match=r"README\.md is not a model card"):
        write_folder(tmp_path, detector(), "card")
    assert list(tmp_path.iterdir()) == [tmp_path / "README.md"]


def change(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["DetrForObjectDetection"]}, "is not a detector of anchordetr_jax"),
        ({"format": 2}, "has format 2, and this version reads up to 1"),
        ({"model": {"backbone": "vit"}}, r"model\.backbone"),
        ({"image_size": {"shortest_edge": 320}}, r"config\.json is damaged"),
        ({"image_size": {"shortest_edge": 64, "longest_edge": 64}}, "contradicts itself: the image size"),
        ({"id2label": {}}, r"config\.json is damaged"),
    ],
)
def test_settings_of_another_kind_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    change(folder, **settings)
    with pytest.raises(UserError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "cut"])
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: str) -> None:
    arrays = dict(random_variables(MODEL))
    if damage == "missing":
        del arrays["patterns"]
    elif damage == "shape":
        arrays["patterns"] = arrays["patterns"][:1]
    elif damage == "nan":
        arrays["patterns"][0, 0] = np.nan
    content = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(content[:-9] if damage == "cut" else content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged" if damage == "cut" else "patterns"):
        read_folder(folder)


# The Hub


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hf://me/cells", ("me/cells", None, None)),
        ("hf://me/cells@v1.0", ("me/cells", "v1.0", None)),
        ("hf://me/cells/old/weights.pth", ("me/cells", None, "old/weights.pth")),
        ("me/cells", ("me/cells", None, None)),
    ],
)
def test_an_address_has_parts(address: str, parts: tuple[str | None, ...]) -> None:
    assert parse_address(address) == parts


@pytest.mark.parametrize("address", ["hf://cells", "hf://", "hf://a b/c"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="write hf://ORGANISATION/NAME"):
        parse_address(address)


class HubError(Exception):
    """Stands in for the errors of `huggingface_hub`."""


class FakeHub(types.SimpleNamespace):
    """`huggingface_hub`, with a folder in the place of its server."""

    def __init__(self, root: Path) -> None:
        super().__init__(asked=[], uploads=[])
        self.root = root
        names = ("GatedRepo", "RepositoryNotFound", "RevisionNotFound", "LocalEntryNotFound", "EntryNotFound")
        other = ("HFValidation", "LocalTokenNotFound")
        self.errors = types.SimpleNamespace(**{f"{name}Error": type(name, (HubError,), {}) for name in names + other})

    def snapshot_download(self, *, repo_id: str, **options: Any) -> str:
        self.asked.append((repo_id, options))
        if not (self.root / repo_id).is_dir():
            raise self.errors.RepositoryNotFoundError("404")
        return str(self.root / repo_id)

    def hf_hub_download(self, *, repo_id: str, filename: str, **options: Any) -> str:
        return str(self.root / repo_id / filename)

    def HfApi(self, **options: Any) -> "FakeHub":  # noqa: N802
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> str:
        assert exist_ok
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **options: Any) -> None:
        target = self.root / repo_id
        target.mkdir(parents=True)
        for name in allow_patterns:
            (target / name).write_bytes((folder_path / name).read_bytes())


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "_package", lambda: fake)
    return fake


def test_what_is_pushed_is_loaded_back(fake_hub: FakeHub) -> None:
    assert push_detector("me/cells", detector(), FACTS) == "https://huggingface.co/me/cells"
    found = open_pretrained("hf://me/cells", hub=HubOptions(revision="main", token="secret", local_files_only=True))
    assert found.categories == CATEGORIES
    (asked,) = fake_hub.asked
    assert asked[0] == "me/cells"
    assert (asked[1]["revision"], asked[1]["token"], asked[1]["local_files_only"]) == ("main", "secret", True)
    card = (fake_hub.root / "me/cells/README.md").read_text()
    assert 'Detector.from_pretrained("hf://me/cells")' in card


def test_a_repository_that_is_not_there_is_said_in_one_sentence(fake_hub: FakeHub) -> None:
    with pytest.raises(UserError, match=r"hf://me/nothing .* no such repository, or it is private"):
        open_pretrained("hf://me/nothing")


@pytest.mark.parametrize(
    ("status", "sentence"), [(401, "access was refused: log in with `hf auth login`"), (500, "Hub: It is down.")]
)
def test_what_the_hub_answers_becomes_one_sentence(
    fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int, sentence: str
) -> None:
    def refuse(*args: Any, **options: Any) -> str:
        error = HubError("It is down.")
        error.response = types.SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(fake_hub, "create_repo", refuse)
    with pytest.raises(UserError) as refused:
        push_detector("me/cells", detector(), FACTS)
    assert sentence in str(refused.value)
    assert ".." not in str(refused.value)


def test_a_repository_of_something_else_is_refused(fake_hub: FakeHub) -> None:
    (fake_hub.root / "me/other").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no model\.safetensors and no config\.json"):
        open_pretrained("hf://me/other")


def test_options_of_the_hub_are_for_its_addresses_only(folder: Path) -> None:
    with pytest.raises(UserError, match="are for hf:// addresses"):
        open_pretrained(folder, hub=HubOptions(revision="v1"))


def test_the_hubs_package_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(hub.importlib, "import_module", missing)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        open_pretrained("hf://me/cells")
