"""Images per second from files to padded batches: this package's loader, and PyTorch's with the official transforms."""

import dataclasses
import functools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, spread
from anchordetr_jax.config import AugmentConfig, Config, DataConfig, TrainConfig
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.sources.opening import open_source
from anchordetr_jax.verification.official import OfficialCode


class Stream:
    """Batches without end. A measurement takes some of them, so the start of the workers is not timed."""

    def __init__(self, start: Callable[[], Iterator[Any]]):
        self._start, self._batches = start, start()

    def take(self, batches: int) -> None:
        """Waits for this number of batches."""
        for _ in range(batches):
            try:
                next(self._batches)
            except StopIteration:
                self._batches = self._start()
                next(self._batches)

    def close(self) -> None:
        """Ends the workers."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def compare_loaders(
    *,
    root: str,
    official: str,
    batch_size: int,
    workers: Sequence[int],
    step_seconds: float,
    rounds: int,
) -> list[Row]:
    """Training batches with augmentation at the official sizes: images per second, and whether steps wait for them.

    Args:
        root: a COCO folder; empty: a folder with drawn shapes of 640x480 pixels, which is made for the measurement.
        official: a checkout of the official code; empty: this package alone.
        batch_size: images per batch.
        workers: numbers of worker processes to try (0: threads of this process).
        step_seconds: length of the steps that may have to wait.
        rounds: timed runs of each loader; each takes two batches.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if not root:
            root = folder
            shapes = ShapesConfig(short_side=(480, 480), max_side=640)
            write_shapes_dataset(Path(root), train_images=64, val_images=1, config=shapes)
        # One loader at a time: otherwise the workers of the others would read ahead in the meantime.
        for name, start in _loaders(root, official, batch_size, workers).items():
            stream = start()
            stream.take(4)
            seconds = alternate([Contestant(name, functools.partial(stream.take, 2))], rounds=rounds)[name]
            waits = step_waits(stream, step_seconds, 4)
            stream.close()
            rows.append(
                {
                    "loader": name,
                    "images per second": 2 * batch_size / median(seconds),
                    "spread": f"±{spread(seconds):.0%}",
                    f"steps of {step_seconds:g} s wait": f"{waits:.0%}",
                }
            )
    return rows


def step_waits(stream: Stream, step_seconds: float, steps: int) -> float:
    """The share of time that steps of a given length wait for their batch."""
    waited = 0.0
    stream.take(1)
    for _ in range(steps):
        time.sleep(step_seconds)
        start = time.perf_counter()
        stream.take(1)
        waited += time.perf_counter() - start
    return waited / (waited + steps * step_seconds)


def _loaders(root: str, official: str, batch_size: int, workers: Sequence[int]) -> dict[str, Callable[[], Stream]]:
    """What starts each loader, by name."""
    config = Config(
        data=DataConfig(root=root, prefetch=1),
        train=TrainConfig(batch_size=batch_size, epochs=1000),
        augment=AugmentConfig(),
    )
    source = open_source(config.data, "train")
    loaders: dict[str, Callable[[], Stream]] = {
        f"{n} workers": functools.partial(_our_stream, source, config, n) for n in workers
    }
    if official:
        code = OfficialCode(official)
        folder = Path(root)
        images, annotations = str(folder / config.data.train_images), str(folder / config.data.train_annotations)
        loaders |= {
            f"official, {n} workers": functools.partial(_official_stream, code, images, annotations, batch_size, n)
            for n in workers
        }
    return loaders


def _our_stream(source: DetectionSource, config: Config, workers: int) -> Stream:
    data = dataclasses.replace(config.data, num_workers=workers)
    batches = TrainingBatches(source, dataclasses.replace(config, data=data))
    return Stream(lambda: iter(batches.batches(0)))


def _official_stream(code: OfficialCode, images: str, annotations: str, batch_size: int, workers: int) -> Stream:
    """PyTorch's DataLoader over the official data set class with its training transforms and its padding."""
    coco = code.coco
    dataset = coco.CocoDetection(
        images,
        annotations,
        transforms=coco.make_coco_transforms("train"),
        return_masks=False,
        cache_mode=False,
        local_rank=0,
        local_size=1,
    )

    def collate(images_and_targets: list[Any]) -> tuple[Any, ...]:
        samples, targets = code.misc.collate_fn(images_and_targets)
        # Plain tensors: a worker cannot send the official class, because its module is not importable by name.
        return (*samples.decompose(), targets)

    loader = code.torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,  # For the same reason. The official code forks, too.
    )

    def start() -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # The workers do not use JAX.
            return iter(loader)

    return Stream(start)
