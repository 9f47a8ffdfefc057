"""The operations that the network is made of, beside PyTorch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.model.attention import MultiHeadAttention
from anchordetr_jax.model.layers import MLP, Convolution, Linear
from anchordetr_jax.model.normalization import GroupNorm, LayerNorm
from anchordetr_jax.model.resnet import Stem
from anchordetr_jax.model.valid_area import StageArea, nearest_area
from tests.tolerances import EXACT64

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("x64")]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def put(variable: nnx.Variable | None, value: np.ndarray) -> None:
    assert variable is not None
    variable[...] = jnp.asarray(value)


def transposed(kernel: nnx.Variable) -> np.ndarray:
    """A linear map as PyTorch lays it out."""
    return np.ascontiguousarray(np.asarray(kernel[...]).T)


def assert_same(ours: jax.Array, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=EXACT64)


@pytest.mark.parametrize("size", [(6, 9), (7, 8), (1, 5)])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)]
)
def test_a_convolution_is_pytorchs(size: tuple[int, int], kernel: int, stride: int, dilation: int) -> None:
    ours = Convolution(
        3, 4, kernel_size=kernel, stride=stride, dilation=dilation, use_bias=True, dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    weight, bias, x = normal(4, 3, kernel, kernel), normal(4, seed=1), normal(2, *size, 3, seed=2)
    put(ours.kernel, weight.transpose(2, 3, 1, 0))
    put(ours.bias, bias)
    images, padding = torch.tensor(x.transpose(0, 3, 1, 2)), dilation * (kernel // 2)
    expected = torch.nn.functional.conv2d(
        images, torch.tensor(weight), torch.tensor(bias), stride=stride, padding=padding, dilation=dilation
    )
    assert_same(ours(jnp.asarray(x)), expected.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("size", [(16, 24), (17, 9), (1, 3)])
def test_the_stem_pools_as_pytorch_does(size: tuple[int, int]) -> None:
    stem, x = Stem(dtype=jnp.float64, rngs=nnx.Rngs(0)), jnp.asarray(normal(1, *size, 3))
    convolved = np.asarray(nnx.relu(stem.norm(stem.conv(x)))).transpose(0, 3, 1, 2)
    expected = torch.nn.functional.max_pool2d(torch.tensor(convolved), kernel_size=3, stride=2, padding=1)
    assert_same(stem(x, StageArea(None)), expected.numpy().transpose(0, 2, 3, 1))


def test_an_mlp_has_relu_between_its_layers_and_none_at_its_end() -> None:
    mlp, x = MLP(4, 6, 5, 2, dtype=jnp.float64, rngs=nnx.Rngs(0)), normal(3, 4)
    layers = []
    for ours in mlp.layers:
        assert ours.bias is not None
        theirs = torch.nn.Linear(*ours.kernel[...].shape, dtype=torch.float64)
        theirs.load_state_dict(
            {"weight": torch.tensor(transposed(ours.kernel)), "bias": torch.tensor(np.array(ours.bias[...]))}
        )
        layers += [theirs, torch.nn.ReLU()]
    with torch.no_grad():
        assert_same(mlp(jnp.asarray(x)), torch.nn.Sequential(*layers[:-1])(torch.tensor(x)).numpy())


def test_linear_layers_start_in_the_range_of_pytorchs() -> None:
    ours, theirs = Linear(400, 300, dtype=jnp.float64, rngs=nnx.Rngs(0)), torch.nn.Linear(400, 300)
    assert ours.bias is not None
    for a, b in ((ours.kernel, theirs.weight), (ours.bias, theirs.bias)):
        assert np.abs(np.asarray(a[...])).max() <= 1 / 20
        np.testing.assert_allclose(np.asarray(a[...]).std(), b.detach().numpy().std(), rtol=0.1)


def test_layer_norm_is_pytorchs() -> None:
    ours, theirs, x = (
        LayerNorm(8, dtype=jnp.float64),
        torch.nn.LayerNorm(8, dtype=torch.float64),
        normal(2, 5, 8),
    )
    scale, bias = normal(8, seed=1), normal(8, seed=2)
    put(ours.scale, scale)
    put(ours.bias, bias)
    theirs.load_state_dict({"weight": torch.tensor(scale), "bias": torch.tensor(bias)})
    assert_same(ours(jnp.asarray(x)), theirs(torch.tensor(x)).detach().numpy())


def test_group_norm_is_pytorchs() -> None:
    ours, x = GroupNorm(2, 8, dtype=jnp.float64), normal(2, 3, 4, 8)
    scale, bias = normal(8, seed=1), normal(8, seed=2)
    put(ours.scale, scale)
    put(ours.bias, bias)
    expected = torch.nn.functional.group_norm(
        torch.tensor(x.transpose(0, 3, 1, 2)), 2, torch.tensor(scale), torch.tensor(bias)
    )
    assert_same(ours(jnp.asarray(x), None), expected.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("masked", [True, False])
def test_ordinary_attention_is_pytorchs(masked: bool) -> None:
    queries, keys, values = (normal(2, n, 32, seed=n) for n in (5, 7, 7))
    valid = np.arange(7)[None] < np.array([[4], [7]])
    ours = MultiHeadAttention(32, 4, role="queries", dtype=jnp.float64, rngs=nnx.Rngs(0))
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True, dtype=torch.float64)
    for i, part in enumerate((ours.query, ours.key, ours.value, ours.out)):
        put(part.bias, normal(32, seed=10 + i))
    parts = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.tensor(np.concatenate([transposed(part.kernel) for part in parts])),
            "in_proj_bias": torch.tensor(np.concatenate([normal(32, seed=10 + i) for i in range(3)])),
            "out_proj.weight": torch.tensor(transposed(ours.out.kernel)),
            "out_proj.bias": torch.tensor(normal(32, seed=13)),
        }
    )
    padding = torch.tensor(~valid) if masked else None
    expected, _ = theirs(*map(torch.tensor, (queries, keys, values)), key_padding_mask=padding)
    mask = jnp.asarray(valid) if masked else None
    result = ours(jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(values), mask)
    assert_same(result, expected.detach().numpy())


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_the_official_mask_at_feature_level_is_pytorchs_interpolation(
    pixels: int, cells: int, data: st.DataObject
) -> None:
    cells, valid = min(cells, pixels), data.draw(st.integers(1, pixels))
    padding = torch.arange(pixels) >= valid
    shrunk = torch.nn.functional.interpolate(padding[None, None, :, None].float(), size=(cells, 1))[0, 0, :, 0]
    area = nearest_area(jnp.array([[valid, 1]]), (pixels, 1), (cells, 1))
    np.testing.assert_array_equal(~np.asarray(area.rows[0]), shrunk.numpy().astype(bool))
