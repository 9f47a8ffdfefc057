"""What the report of an inspection counts."""

import json
from pathlib import Path

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.inspection.inspecting import DataSetInspection, SplitInspection, inspect_dataset
from anchordetr_jax.data.inspection.report import counts_by_name, describe_split, to_dict
from tests.data.sources.forms import write_coco


def with_classes_of_one_name(root: Path) -> SplitInspection:
    """Two objects of class 1 and one of class 2, both with the name `cell`; none of class 3."""
    write_coco(root)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in ((1, "cell"), (2, "cell"), (3, "dot"))]
    content["annotations"] = content["annotations"][:3]
    for annotation, category in zip(content["annotations"], (1, 2, 1), strict=True):
        annotation["category_id"] = category
    file.write_text(json.dumps(content))
    config = DataConfig(root=str(root))
    (found,) = inspect_dataset(config, decode=False, evaluated=False, ask=lambda values, *_: values).splits
    return found


def test_classes_of_one_name_are_counted_each_in_the_report(tmp_path: Path) -> None:
    found = with_classes_of_one_name(tmp_path)
    split = to_dict(DataSetInspection([found], [], []))["splits"]["train"]
    assert [one["objects"] for one in split["classes"]] == [2, 1, 0]
    assert split["objects"] == 3
    assert "3 objects of 3 classes" in describe_split(found)


def test_classes_of_one_name_are_counted_together_where_only_names_are_shown(tmp_path: Path) -> None:
    assert counts_by_name(with_classes_of_one_name(tmp_path)) == {"cell": 3, "dot": 0}
