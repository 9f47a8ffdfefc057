"""Weights and images made from a seed alone. They are the same in every framework and on every machine.

A file of golden values names its seeds and need not contain 150 MB of weights. Each tensor has its own random stream,
which depends on the seed and on the tensor's official name. The distributions keep activations near 1 in the whole
network.
"""

import hashlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.weights.state_dict import state_dict_from_variables

Shape = tuple[int, ...]
_Draw = Callable[[np.random.Generator, Shape], np.ndarray]

_SHARED_HEAD = re.compile(r"(transformer\.(?:class|bbox)_embed)\.\d+\.")
BLOBS = 12
"""Number of soft coloured spots in a synthetic image."""


def official_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Name and shape of each tensor in the official state dict of this architecture. `config.num_classes` must be set.

    Raises `UserError` if the official code does not have this architecture.
    """
    nothing = {path: np.broadcast_to(np.int8(0), leaf.shape) for path, leaf in definition_of(config).shapes.items()}
    return {name: array.shape for name, array in state_dict_from_variables(nothing, config).items()}


def synthetic_state_dict(shapes: Mapping[str, Shape], seed: int) -> dict[str, np.ndarray]:
    """float32 arrays of the given shapes by official name. The copies of a shared head are equal."""
    return {name: synthetic_tensor(name, shape, seed) for name, shape in shapes.items()}


def synthetic_tensor(name: str, shape: Shape, seed: int) -> np.ndarray:
    """One tensor of `synthetic_state_dict`."""
    name = _SHARED_HEAD.sub(r"\1.0.", name)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    return _draw(name, shape)(generator, shape).astype(np.float32)


def synthetic_image(height: int, width: int, seed: int) -> np.ndarray:
    """An image of smooth spots and a little noise: float32 [height, width, 3], already normalised."""
    generator = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.zeros((3, height, width))
    for _ in range(BLOBS):
        centre_y, centre_x = generator.uniform(0, height), generator.uniform(0, width)
        size = generator.uniform(8, max(height, width) / 3)
        colour = generator.normal(0, 1, 3)
        image += colour[:, None, None] * np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * size * size))
    image += generator.normal(0, 0.1, image.shape)
    return image.astype(np.float32).transpose(1, 2, 0)


def _draw(name: str, shape: Shape) -> _Draw:
    """The random distribution of a tensor with this name and shape."""
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        return _uniform(0.5, 1.5)
    if kind == "running_mean":
        return _normal(0.1)
    if len(shape) == 1 and kind == "weight":
        # The last normalisation of a residual block is small, so that activations do not grow over 33 blocks.
        high = 0.4 if ".bn3." in name else 1.2
        return _uniform(0.5 * high, high) if "backbone" in name else _uniform(0.8, 1.2)
    if len(shape) == 1:
        return _normal(0.05, mean=-2.0) if "class_embed" in name else _normal(0.05)
    if len(shape) == 4:
        return _normal((2 / (shape[1] * shape[2] * shape[3])) ** 0.5)
    if name.endswith("position.weight"):
        return _uniform(0, 1)
    if name.endswith(("pattern.weight", "level_embed.weight")):
        return _normal(1.0)
    return _normal((2 / (shape[0] + shape[1])) ** 0.5)


def _uniform(low: float, high: float) -> _Draw:
    return lambda generator, shape: generator.uniform(low, high, shape)


def _normal(deviation: float, mean: float = 0.0) -> _Draw:
    # The mean is added afterwards: another order of rounding would change the last bit.
    return lambda generator, shape: generator.normal(0, deviation, shape) + mean
