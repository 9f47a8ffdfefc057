"""What is said and refused before a run begins, and what a fine-tuning begins with when nobody names it."""

import json
from pathlib import Path

import pytest
from etils import epath
from PIL import Image

from anchordetr_jax.config import Config, DataConfig, TrainConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import Experiment, read_experiment
from anchordetr_jax.training.experiment import make_evaluate, run_experiment, usual_weights


def test_a_preset_without_initial_weights_begins_with_a_published_model() -> None:
    assert usual_weights(Config())[0] == "anchordetr-r50-dc5"


def test_a_preset_with_initial_weights_keeps_them() -> None:
    assert usual_weights(read_experiment("finetune-cpu").config) == ("", "")


def test_a_run_with_negatives_of_no_denoising_groups_is_refused(tmp_path: Path) -> None:
    config = Config(train=TrainConfig(denoising_negatives=True))
    with pytest.raises(UserError, match=r"denoising_negatives has no effect without train\.denoising_groups"):
        run_experiment(Experiment(config), tmp_path)


@pytest.mark.parametrize("objects", [0, 1])
def test_validation_images_without_an_object_are_said_before_training(
    objects: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [box] * objects,
        "categories": [{"id": 1, "name": "dot"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    data = DataConfig(
        source="coco", root=str(tmp_path), val_images=str(tmp_path), val_annotations=str(tmp_path / "val.json")
    )
    config = Config(data=data)
    categories = Categories(ids=(1,), names=("dot",), scheme=config.data.labels)
    make_evaluate(config, epath.Path(tmp_path), make_mesh(config.mesh), categories, None)
    said = "Warning: the validation images (1) have no object, so AP cannot be measured" in capsys.readouterr().out
    assert said == (objects == 0)
