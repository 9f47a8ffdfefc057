"""Settings that follow from the data set: they say why; what a person or an earlier part of the run chose stays."""

import dataclasses
from typing import Any, Literal

import pytest

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from anchordetr_jax.data.transforms import resized_sizes
from anchordetr_jax.experiments import read_experiment
from anchordetr_jax.training.fitted_settings import (
    FEW_IMAGES,
    FITTED,
    fitted_settings,
)
from tests.data.squares import Squares

CPU = Config(fit="cpu", model=ModelConfig(backbone="efficientnet_lite0"))
GPU = Config(fit="gpu")


def fitted(config: Config, dataset: Any, *given: str, before: Config | None = None) -> tuple[Config, list[str]]:
    result, lines = fitted_settings(config, dataset, given, before)
    return result, list(lines)


def test_without_fit_nothing_is_chosen() -> None:
    assert fitted(Config(), Squares(10, 100)) == (Config(), [])


def test_small_objects_need_larger_images() -> None:
    large, lines = fitted(CPU, Squares(50, 300))
    small, _ = fitted(CPU, Squares(50, 40))
    assert large.augment.eval_size < small.augment.eval_size
    assert max(small.augment.train_sizes) == small.augment.eval_size
    assert any("augment.eval_size=" in line and "62.5% of their image's short side" in line for line in lines)


def test_images_from_one_distance_keep_their_scale() -> None:
    steady, lines = fitted(CPU, Squares(50, 100, 110))
    assert steady.augment.train_sizes == (steady.augment.eval_size,)
    assert (steady.augment.scale_jitter_min, steady.augment.scale_jitter_max) == (0.9, 1.3)
    assert any("they differ by 5%" in line for line in lines)
    varied, _ = fitted(CPU, Squares(50, 60, 180))
    assert len(varied.augment.train_sizes) > 1
    assert varied.augment.scale_jitter_min < 0.9
    assert steady.augment.vertical_flip_probability > varied.augment.vertical_flip_probability == 0


NEW = dataclasses.replace(CPU, architecture="detector")


@pytest.mark.parametrize(("objects", "prior", "anchors"), [(2, "learned", 100), (10, "grid", 256)])
def test_a_new_detector_has_anchor_points_for_its_number_of_objects(objects: int, prior: str, anchors: int) -> None:
    dataset = Squares(50, 60, 180)
    dataset.box_counts[:] = objects
    new, lines = fitted(NEW, dataset)
    assert (new.model.spatial_prior, new.model.num_anchors) == (prior, anchors)
    assert any(f"model.num_anchors={anchors}" in line and f"images have {objects}.0 objects" in line for line in lines)


def test_the_anchor_points_of_a_whole_detector_stay() -> None:
    dataset = Squares(50, 60, 180)
    dataset.box_counts[:] = 10
    assert fitted(CPU, dataset)[0].model == CPU.model


def test_a_run_that_continues_keeps_its_anchor_points() -> None:
    dataset = Squares(50, 60, 180)
    before = fitted(NEW, dataset)[0]
    dataset.box_counts[:] = 10
    assert fitted(NEW, dataset, before=before)[0].model == before.model


def test_the_fewer_the_images_the_more_passes() -> None:
    for config in (CPU, GPU):
        few, some, many = (fitted(config, Squares(images, 100))[0].train.epochs for images in (100, 1000, 30_000))
        assert few > some > many >= 5


def test_few_images_come_in_small_batches_on_a_cpu() -> None:
    sizes = [fitted(config, Squares(images, 100))[0].train.batch_size for config in (CPU, GPU) for images in (50, 2000)]
    assert sizes == [4, 8, GPU.train.batch_size, GPU.train.batch_size]


def test_few_images_with_many_objects_come_in_the_smallest_batches_on_a_cpu() -> None:
    few, many = Squares(50, 100), Squares(2000, 100)
    for dataset in (few, many):
        dataset.box_counts[:] = 10
    config, lines = fitted(CPU, few)
    assert config.train.batch_size == 2
    assert "Chosen for this data set: train.batch_size=2, because 50 images are few, with many objects." in lines
    assert fitted(CPU, many)[0].train.batch_size == 8


@pytest.mark.parametrize("config", [CPU, GPU])
def test_long_runs_have_lower_learning_rates(config: Config) -> None:
    short, long = (
        fitted(dataclasses.replace(config, train=TrainConfig(epochs=epochs)), Squares(100, 100), "train.epochs")[0]
        for epochs in (10, 1000)
    )
    assert short.optimizer.learning_rate > long.optimizer.learning_rate
    assert short.optimizer.backbone_learning_rate > long.optimizer.backbone_learning_rate


@pytest.mark.parametrize("config", [CPU, GPU])
def test_images_that_come_more_often_count_in_the_length_and_the_learning_rates(config: Config) -> None:
    dataset = Squares(100, 100)
    dataset.classes[0] = 1  # In a hundredth of the images, so it comes ten times.
    rare = dataclasses.replace(config, data=DataConfig(repeat_threshold=1.0))
    result, lines = fitted(rare, dataset)
    assert any("train.epochs=" in line and " 110 images an epoch" in line for line in lines)
    steps = result.train.epochs * 110 // result.train.batch_size
    assert any("optimizer.learning_rate=" in line and f"the run has {steps} steps." in line for line in lines)


@pytest.mark.parametrize("preset", ["finetune", "finetune-cpu"])
def test_a_preset_that_fits_leaves_its_choices_open(preset: str) -> None:
    experiment = read_experiment(preset)
    open_settings = {"train.epochs", "augment.train_sizes", "augment.eval_size", "optimizer.learning_rate"}
    if experiment.config.fit == "cpu":
        open_settings |= {"train.batch_size", "model.num_anchors", "model.spatial_prior", "data.num_buckets"}
    assert not open_settings & set(experiment.given)


@pytest.mark.parametrize(
    ("config", "epochs", "every", "count"),
    [
        (CPU, 1, 1, "1 evaluation"),
        (CPU, 20, 5, "4 evaluations"),
        (CPU, 57, 15, "4 evaluations"),
        (GPU, 20, 2, "10 evaluations"),
    ],
)
def test_a_run_of_any_length_has_a_steady_number_of_evaluations(
    config: Config, epochs: int, every: int, count: str
) -> None:
    config = dataclasses.replace(config, train=TrainConfig(epochs=epochs))
    result, lines = fitted(config, Squares(160, 200), "train.epochs")
    assert result.train.evaluate_every == every
    assert f"Chosen for this data set: train.evaluate_every={every}, {count} in all." in lines


def test_images_of_both_orientations_need_two_buckets_on_a_cpu() -> None:
    dataset = Squares(50, 100)
    assert fitted(CPU, dataset)[0].data.num_buckets == 1
    dataset.sizes[:] = [640, 480]
    assert fitted(CPU, dataset)[0].data.num_buckets == 1
    transposed = dataclasses.replace(CPU, augment=AugmentConfig(transpose_probability=0.5))
    assert fitted(transposed, dataset)[0].data.num_buckets == 2
    dataset.sizes[0] = [480, 640]
    assert fitted(CPU, dataset)[0].data.num_buckets == 2
    assert fitted(GPU, dataset)[0].data.num_buckets == GPU.data.num_buckets


def test_few_images_get_other_colours_and_mosaics_that_end_before_the_run() -> None:
    few, many = fitted(CPU, Squares(100, 100))[0], fitted(CPU, Squares(2000, 100))[0]
    assert few.augment.mosaic_probability > many.augment.mosaic_probability == 0
    assert 0 < few.augment.mosaic_epochs < few.train.epochs
    assert few.augment.brightness > many.augment.brightness == 0


def test_negatives_and_weight_decay_are_for_few_images_with_many_objects() -> None:
    dataset = Squares(50, 60, 180)
    denoising = dataclasses.replace(CPU, train=TrainConfig(denoising_groups=2))
    single, _ = fitted(denoising, dataset)
    assert not single.train.denoising_negatives
    dataset.box_counts[:] = 10
    crowded, _ = fitted(denoising, dataset)
    assert crowded.train.denoising_negatives
    assert crowded.optimizer.weight_decay > single.optimizer.weight_decay


def test_without_denoising_queries_there_are_no_negatives() -> None:
    dataset = Squares(50, 60, 180)
    dataset.box_counts[:] = 10
    config, lines = fitted(CPU, dataset)
    assert not config.train.denoising_negatives
    assert not any("denoising_negatives" in line for line in lines)


def test_images_with_many_objects_do_not_become_mosaics() -> None:
    dataset = Squares(100, 20)
    dataset.box_counts[:] = 12
    assert fitted(CPU, dataset)[0].augment.mosaic_probability == 0


def test_what_a_person_sets_stays_and_the_rest_follows_from_it() -> None:
    given = dataclasses.replace(CPU, train=TrainConfig(epochs=2), augment=AugmentConfig(eval_size=96))
    config, lines = fitted(given, Squares(100, 200), "train.epochs", "augment.eval_size")
    assert (config.train.epochs, config.augment.eval_size) == (2, 96)
    assert max(config.augment.train_sizes) == 96
    assert any("because the run has 50 steps" in line for line in lines)
    assert not any("train.epochs=" in line for line in lines)


@pytest.mark.parametrize("name", ["mosaic", "scale_jitter"])
def test_what_a_person_switches_off_has_no_further_choices(name: str) -> None:
    off = dataclasses.replace(CPU, augment=AugmentConfig(**{f"{name}_probability": 0.0}))  # type: ignore[arg-type]
    assert any(f"augment.{name}" in line for line in fitted(off, Squares(100, 200))[1])
    assert not any(
        f"augment.{name}" in line for line in fitted(off, Squares(100, 200), f"augment.{name}_probability")[1]
    )


@pytest.mark.parametrize(("height", "width"), [(900, 1600), (960, 1280), (800, 800), (900, 2100)])
def test_images_of_one_shape_have_the_chosen_short_side(height: int, width: int) -> None:
    dataset = Squares(200, 80, 140)
    dataset.sizes[:] = height, width
    config, _ = fitted(CPU, dataset)
    for size in (config.augment.eval_size, *config.augment.train_sizes):
        assert (resized_sizes(dataset.sizes, size, config.augment.max_size).min(axis=1) == size).all()
    assert config.augment.max_size >= config.augment.eval_size * 4 // 3


def test_wide_images_have_fewer_epochs_because_they_have_more_pixels() -> None:
    usual, wide = Squares(200, 80, 140), Squares(200, 80, 140)
    usual.sizes[:], wide.sizes[:] = (900, 1200), (900, 1800)
    assert fitted(CPU, wide)[0].train.epochs < fitted(CPU, usual)[0].train.epochs


def test_image_sizes_that_a_person_gives_for_training_decide_the_others() -> None:
    given = dataclasses.replace(CPU, augment=AugmentConfig(train_sizes=(480, 512)))
    config, lines = fitted(given, Squares(50, 100, 300), "augment.train_sizes")
    assert (config.augment.train_sizes, config.augment.eval_size) == ((480, 512), 512)
    assert config.augment.max_size >= 512 * 4 // 3
    assert any("augment.eval_size=512, the largest of augment.train_sizes." in line for line in lines)


@pytest.mark.parametrize("fit", ["off", "cpu"])
def test_a_given_size_that_the_longest_side_does_not_allow_is_said(fit: Literal["off", "cpu"]) -> None:
    dataset = Squares(50, 100, 300)
    dataset.sizes[:] = 900, 1600
    before = dataclasses.replace(CPU, fit=fit, augment=AugmentConfig(eval_size=256, train_sizes=(256,), max_size=455))
    larger = dataclasses.replace(before, augment=dataclasses.replace(before.augment, eval_size=512))
    (line,) = fitted(larger, dataset, "augment.eval_size", before=before)[1]
    assert line.startswith("Warning: 50 of 50 images have a shorter side than 512 (augment.eval_size)")
    assert line.endswith("--config.augment.max_size=910 mends it.")
    mended = dataclasses.replace(larger, augment=dataclasses.replace(larger.augment, max_size=910))
    assert fitted(mended, dataset, "augment.eval_size", "augment.max_size", before=before)[1] == []


def test_images_with_many_objects_have_as_many_detections() -> None:
    dataset = Squares(50, 20)
    dataset.box_counts[:] = 10
    assert fitted(NEW, dataset)[0].eval.max_detections == 100
    dataset.box_counts[7] = 130
    config, lines = fitted(NEW, dataset)
    assert config.eval.max_detections == 200
    assert any("eval.max_detections=200, because an image has 130 objects." in line for line in lines)
    dataset.box_counts[7] = 500
    assert fitted(NEW, dataset)[0].eval.max_detections == 768  # The number of queries.


def test_an_image_with_many_objects_forbids_mosaics() -> None:
    dataset = Squares(50, 100)
    assert fitted(NEW, dataset)[0].augment.mosaic_probability > 0
    dataset.box_counts[7] = 80
    config, lines = fitted(NEW, dataset)
    assert config.augment.mosaic_probability == 0
    assert any("mosaic_probability=0.0, because an image has 80 objects, and 4 of them" in line for line in lines)


def test_objects_that_fill_their_images_are_not_turned_upside_down() -> None:
    assert fitted(CPU, Squares(50, 100))[0].augment.vertical_flip_probability == 0.5
    assert fitted(CPU, Squares(50, 300))[0].augment.vertical_flip_probability == 0


def test_a_run_that_continues_keeps_what_was_chosen() -> None:
    before, _ = fitted(CPU, Squares(100, 200))
    now, lines = fitted(CPU, Squares(400, 30), before=before)
    assert (now.train.epochs, now.augment) == (before.train.epochs, before.augment)
    assert lines == []
    longer = dataclasses.replace(CPU, train=dataclasses.replace(CPU.train, epochs=99))
    assert fitted(longer, Squares(100, 200), "train.epochs", before=before)[0].train.epochs == 99


def test_a_run_that_continues_with_many_images_keeps_what_was_chosen_for_few() -> None:
    negatives = dataclasses.replace(CPU, train=dataclasses.replace(CPU.train, denoising_groups=4))
    few, many = Squares(FEW_IMAGES - 1, 100), Squares(FEW_IMAGES + 1, 100)
    for objects in (1, 10):
        few.box_counts[:] = many.box_counts[:] = objects
        for config in (negatives, GPU):
            before, _ = fitted(config, few)
            assert fitted(config, many)[0] != before
            assert fitted(config, many, before=before)[0] == before


def test_the_settings_that_may_be_chosen_are_listed() -> None:
    chosen = set()
    for config in (dataclasses.replace(NEW, train=TrainConfig(denoising_groups=4)), GPU):
        for objects in (1, 10):
            dataset = Squares(50, 100, 110)
            dataset.box_counts[:] = objects
            dataset.box_counts[0] *= 13
            lines = fitted(config, dataset)[1]
            chosen |= {line.split(": ")[1].split("=")[0] for line in lines if line.startswith("Chosen")}
    assert chosen == FITTED


def test_the_reason_for_the_epochs_says_when_a_run_is_shorter_or_longer_than_usual() -> None:
    def reason(images: int) -> str:
        return next(line for line in fitted(CPU, Squares(images, 240))[1] if "train.epochs=" in line)

    assert "train.epochs=100, because 20 images then take less than 12 to 30 minutes" in reason(20)
    assert "because 300 images then take 12 to 30 minutes" in reason(300)
    assert "train.epochs=5, because fewer passes learn too little. 20000 images then take" in reason(20_000)
    assert "times as long as 12 to 30 minutes" in reason(20_000)


def test_the_advice_about_small_objects_never_makes_images_smaller() -> None:
    dataset = Squares(100, 200)
    dataset.sizes[::2], dataset.sides[::2] = (200, 3000), 60  # Its long side, and not the short one, sets its size.
    config, lines = fitted(CPU, dataset)
    (warning,) = [line for line in lines if line.startswith("Warning")]
    advised = int(warning.partition("augment.eval_size=")[2].split()[0])
    assert advised >= config.augment.eval_size


def test_images_that_a_person_wants_tiny_have_a_size_to_train_on() -> None:
    tiny = dataclasses.replace(CPU, augment=AugmentConfig(eval_size=20))
    assert fitted(tiny, Squares(50, 100, 300), "augment.eval_size")[0].augment.train_sizes == (20,)


def test_objects_smaller_than_a_cell_are_counted_with_the_size_that_mends_it() -> None:
    _, lines = fitted(CPU, Squares(100, 200, 12))
    assert len(warnings := [line for line in lines if line.startswith("Warning")]) == 1
    assert "50 of 100 objects are smaller than a feature cell (16 pixels)" in warnings[0]
    assert "--config.augment.eval_size=640" in warnings[0]  # 12 pixels of 480 are 16 of 640.
    sizes = AugmentConfig(eval_size=640, train_sizes=(640,), max_size=854)
    mended = dataclasses.replace(CPU, augment=sizes)
    given = ("augment.eval_size", "augment.train_sizes", "augment.max_size")
    assert not any("Warning" in line for line in fitted(mended, Squares(100, 200, 12), *given)[1])
