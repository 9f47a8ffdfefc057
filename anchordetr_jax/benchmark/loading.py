"""Images a second from files to padded batches: this package's loader, and PyTorch's with the official transforms."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from anchordetr_jax.benchmark.timing import Contestant
from anchordetr_jax.config import Config
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.verification.official import OfficialCode


class Stream:
    """Batches without end, of which some are taken at a time, so that starting workers is not timed."""

    def __init__(self, start: Callable[[], Iterator[Any]]):
        self._start, self._batches = start, start()

    def take(self, batches: int) -> None:
        """Waits for so many."""
        for _ in range(batches):
            try:
                next(self._batches)
            except StopIteration:
                self._batches = self._start()
                next(self._batches)

    def close(self) -> None:
        """Ends its workers."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()


def our_stream(source: DetectionSource, config: Config, workers: int) -> Stream:
    """Training batches with so many worker processes (0: threads of this process)."""
    data = dataclasses.replace(config.data, num_workers=workers)
    batches = TrainingBatches(source, dataclasses.replace(config, data=data))
    return Stream(lambda: iter(batches.batches(0)))


def official_stream(code: OfficialCode, images: str, annotations: str, batch_size: int, workers: int) -> Stream:
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
        # Its own class is of a module that was imported for the while only, so a worker could not send it.
        return (*samples.decompose(), targets)

    loader = code.torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,  # For the same reason; and so does the official code.
    )

    def start() -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # The workers do nothing with JAX.
            return iter(loader)

    return Stream(start)


def reading(name: str, stream: Stream, batches: int) -> Contestant:
    """Taking so many batches, as something to be timed."""
    return Contestant(name, lambda: stream.take(batches))


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
