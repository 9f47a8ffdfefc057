# mypy: disable-error-code="union-attr,index,arg-type"
# Parts that are optional in the types are there in the models made here.
"""The detector as a whole: shapes, initial weights, dtypes, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import InitialKeys, ModelDefinition, build
from anchordetr_jax.model import AnchorDETR
from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD, inverse_sigmoid
from anchordetr_jax.model.attention import row_column_weights
from anchordetr_jax.model.positions import cell_centres, sine1d
from anchordetr_jax.model.valid_area import leading_area
from tests.model.conftest import VARIANTS
from tests.tolerances import CLOSE32, EXACT64, GRADIENT64_RELATIVE

SIZES = np.array([[32, 48]], np.int32)


@functools.cache  # Initial weights take a second.
def new(**settings) -> AnchorDETR:
    config = ModelConfig(
        backbone="compact", num_classes=4, num_anchors=9, num_patterns=2, hidden_dim=32, num_heads=2, ffn_dim=32,
        encoder_layers=1, decoder_layers=2, **settings,
    )  # fmt: skip
    return build(config, rngs=InitialKeys(0))


@jax.jit
def detect(model, images, sizes):
    return model(images, sizes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_decoder_layer_predicts_for_every_pattern_and_anchor(variant, small_detector):
    model = small_detector(**VARIANTS[variant])
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((3, 40, 56, 3), jnp.uint8)
    sizes = jax.ShapeDtypeStruct((3, 2), jnp.int32)
    predictions = jax.eval_shape(lambda i, s: nnx.merge(graphdef, state)(i, s), images, sizes)
    assert predictions.logits.shape == (2, 3, 18, 5)
    assert predictions.boxes.shape == (2, 3, 18, 4)


def test_boxes_start_at_their_anchors_and_classes_at_the_prior():
    model = new()
    predictions = detect(model, np.zeros((1, 32, 48, 3), np.float32), SIZES)
    anchors = np.tile(np.asarray(model.anchors[...]), (2, 1))
    assert np.asarray(predictions.boxes[-1, 0, :, :2]) == pytest.approx(anchors, abs=CLOSE32)
    assert np.asarray(predictions.boxes[-1, 0, :, 2:]) == pytest.approx(1 / (1 + np.exp(2)), abs=CLOSE32)
    assert np.asarray(model.class_head.bias[...]) == pytest.approx(-np.log(99), abs=CLOSE32)


def test_pixels_are_normalised_inside():
    model = new()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    normalised = ((pixels / 255 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)).astype(np.float32)
    assert np.asarray(detect(model, pixels, SIZES).logits) == pytest.approx(
        np.asarray(detect(model, normalised, SIZES).logits), abs=CLOSE32
    )


def test_bfloat16_keeps_float32_parameters_and_answers_in_float32():
    model = new(dtype="bfloat16")
    predictions = detect(model, np.zeros((1, 32, 48, 3), np.uint8), SIZES)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype(jnp.float32)}
    assert predictions.logits.dtype == predictions.boxes.dtype == jnp.float32
    assert np.isfinite(np.asarray(predictions.logits)).all()


@pytest.mark.parametrize("attention", ["rcda", "standard"])
def test_what_the_settings_leave_unused_is_not_trained(attention, small_detector):
    definition = ModelDefinition.of(small_detector(attention=attention))
    position_maps = {path for path in definition.shapes if path.startswith("adapt_pos1d/")}
    assert len(position_maps) == 4
    assert definition.param_paths & position_maps == (position_maps if attention == "rcda" else set())


@pytest.mark.usefixtures("x64")
def test_recomputing_activations_changes_neither_value_nor_gradient(small_detector):
    def loss_and_gradient(remat: bool):
        graphdef, state = nnx.split(small_detector(backbone="compact", dtype="float64", remat=remat))
        image = jax.random.normal(jax.random.key(0), (1, 32, 48, 3), jnp.float64)

        def loss(state):
            predictions = nnx.merge(graphdef, state)(image, SIZES)
            return jnp.square(predictions.logits).sum() + jnp.square(predictions.boxes).sum()

        return jax.jit(jax.value_and_grad(loss))(state)

    kept, recomputed = loss_and_gradient(False), loss_and_gradient(True)
    assert float(kept[0]) == pytest.approx(float(recomputed[0]), rel=EXACT64)
    for a, b in zip(jax.tree.leaves(kept[1]), jax.tree.leaves(recomputed[1]), strict=True):
        assert np.asarray(a) == pytest.approx(np.asarray(b), rel=GRADIENT64_RELATIVE, abs=EXACT64)


def test_the_number_of_classes_must_be_known():
    with pytest.raises(ValueError, match="num_classes"):
        AnchorDETR(ModelConfig(), rngs=nnx.Rngs(0))


def test_float64_without_64_bit_mode_is_refused():
    with pytest.raises(UserError, match="JAX_ENABLE_X64"):
        new(dtype="float64")


def test_inverse_sigmoid_is_bounded_at_the_ends():
    ends = np.asarray(inverse_sigmoid(jnp.array([-1.0, 0.0, 0.5, 1.0, 2.0]), 1e-5))
    limit = np.log((1 - 1e-5) / 1e-5)
    assert ends == pytest.approx([-limit, -limit, 0.0, limit, limit], rel=1e-4)


@jax.jit
def attention_along_a_row(model, features, column):
    """Weights of the columns, for a query at the centre of one of them."""
    attention, area = model.decoder.layers[0].cross_attention, leading_area(jnp.array([[8, 8]]), (8, 8))
    _, x = cell_centres(area, jnp.dtype(jnp.float32))
    positions = model.grid_positions(area)
    memory = attention.memory(features, positions.row, positions.column, area, area)
    query = model.adapt_pos1d(sine1d(x[:, column, None], 32))
    row_query = attention.query_row(query).reshape(1, 1, 2, 16)
    row, _ = row_column_weights(row_query, row_query, memory)
    return row


@pytest.mark.parametrize("column", [0, 3, 7])
def test_local_initial_weights_attend_where_the_query_is(column):
    features = jax.random.normal(jax.random.key(0), (1, 8, 8, 32))
    row = np.asarray(attention_along_a_row(new(initialization="local"), features, column))
    centre = float((row[0, :, 0].mean(axis=0) * np.arange(8)).sum())
    assert abs(centre - column) < 1.5


@pytest.mark.parametrize("column", [0, 7])
def test_official_initial_weights_attend_everywhere(column):
    row = np.asarray(attention_along_a_row(new(), np.zeros((1, 8, 8, 32), np.float32), column))
    assert row.max() < 0.3


def test_a_backbone_that_is_no_resnet_is_asked_for():
    with pytest.raises(ValueError, match="There is no ResNet 'compact'"):
        AnchorDETR(ModelConfig(backbone="compact", num_classes=4), rngs=nnx.Rngs(0))
