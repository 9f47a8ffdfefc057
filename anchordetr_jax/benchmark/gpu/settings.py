"""What is measured on a GPU, and the tiny sizes of a rehearsal on a CPU."""

import dataclasses
from typing import Literal, NamedTuple

from anchordetr_jax.benchmark.gpu.flags import FLAGS

Dtype = Literal["float32", "bfloat16"]


class Cell(NamedTuple):
    """One thing to time."""

    network: str
    """A name in `networks.NETWORKS`."""
    images: int
    shape: tuple[int, int]
    """(height, width) in pixels."""
    dtype: Dtype

    @property
    def name(self) -> str:
        return f"{self.workload}, {self.dtype}"

    @property
    def workload(self) -> str:
        """The cell without its dtype: what the official code runs in other ways."""
        height, width = self.shape
        return f"{self.network}, {height}x{width}, batch {self.images}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    forward: tuple[Cell, ...]
    """In the order of worth: the first one is also measured with other XLA flags."""
    train: tuple[Cell, ...]
    """As `forward`. The first one is also tried with larger batches."""
    flags: tuple[str, ...]
    """Names in `flags.FLAGS` that the first forward pass and the first training step are also compiled with."""
    rounds: int
    """Timed runs of each program, at most."""
    seconds: float
    """After this time no further round of a program starts."""
    product: int
    """Rows and columns of the matrices whose product gives the peak."""
    golden: tuple[str, ...]
    """Names of the golden cases, in the order of worth."""
    check_shape: tuple[int, int]
    """(height, width) of the images of the other checks."""
    eval_images: int
    eval_short_side: int
    train_images: int
    """Drawn images of the real training."""
    train_side: int
    """Pixels of their short side."""
    train_batch: int
    train_epochs: int
    tiny: bool
    """Whether networks have few layers and channels."""


SHORT, LONG = (800, 1088), (800, 1344)
_LESS_WORTH: tuple[tuple[Dtype, tuple[int, int]], ...] = (("bfloat16", SHORT), ("float32", LONG), ("float32", SHORT))
GPU_SIZES = Sizes(
    forward=(
        Cell("R50-DC5", 8, LONG, "bfloat16"),
        Cell("R50-DC5", 1, LONG, "bfloat16"),
        Cell("R50-DC5", 8, LONG, "float32"),
        Cell("R50-DC5", 8, SHORT, "bfloat16"),
        Cell("R50-DC5", 1, SHORT, "bfloat16"),
        Cell("R50-DC5", 1, LONG, "float32"),
        Cell("R50-C5", 8, LONG, "bfloat16"),
        Cell("R101-DC5", 8, LONG, "bfloat16"),
        Cell("R50-DC5", 8, SHORT, "float32"),
        Cell("R50-DC5", 1, SHORT, "float32"),
        Cell("R50-C5", 1, LONG, "bfloat16"),
        Cell("R101-DC5", 1, LONG, "bfloat16"),
        Cell("R101-C5", 8, LONG, "bfloat16"),
        Cell("R101-C5", 1, LONG, "bfloat16"),
        *(
            Cell(network, images, shape, dtype)
            for network in ("R50-C5", "R101-DC5", "R101-C5")
            for dtype, shape in _LESS_WORTH
            for images in (8, 1)
        ),
    ),
    train=(Cell("R50-DC5", 8, LONG, "bfloat16"), Cell("R50-DC5", 8, LONG, "float32")),
    flags=tuple(FLAGS),
    rounds=30,
    seconds=3.0,
    product=8192,
    golden=(
        "r50_dc5_train",
        "r50_dc5_padded_batch",
        "r50_dc5_levels3",
        "r50_dc5_grid",
        "r50_dc5_mha",
        "r50_c5",
        "r101_c5",
    ),
    check_shape=(160, 224),
    eval_images=512,
    eval_short_side=800,
    train_images=2048,
    train_side=224,
    train_batch=32,
    train_epochs=10_000,
    tiny=False,
)
REHEARSAL_SIZES = Sizes(
    forward=(
        Cell("R50-DC5", 2, (64, 96), "bfloat16"),
        Cell("R50-C5", 1, (64, 96), "float32"),
    ),
    train=(Cell("R50-DC5", 2, (64, 96), "bfloat16"),),
    flags=tuple(FLAGS)[:1],
    rounds=2,
    seconds=1.0,
    product=128,
    golden=("r50_c5",),
    check_shape=(64, 96),
    eval_images=8,
    eval_short_side=64,
    train_images=16,
    train_side=64,
    train_batch=4,
    train_epochs=2,
    tiny=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line asks for."""

    output: str
    """The folder of the report."""
    official: str = ""
    """A checkout of the official code; empty: this package alone."""
    data: str = ""
    """A COCO folder for the evaluation and the training; empty: drawn shapes."""
    minutes: float = 9.0
    """For everything together."""
    only: tuple[str, ...] = ()
    """Letters of the parts to measure; empty: all."""
    rehearse: bool = False
    """Tiny sizes, on whatever device there is."""

    @property
    def sizes(self) -> Sizes:
        return REHEARSAL_SIZES if self.rehearse else GPU_SIZES
