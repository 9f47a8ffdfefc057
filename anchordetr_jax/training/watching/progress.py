"""What a person sees of a run: a progress bar, lines about what went wrong, and the numbers for `metrics.jsonl`."""

import time
from collections.abc import Callable, Iterable
from typing import Self

import jax
from tqdm.auto import tqdm

from anchordetr_jax.data.batching import Batch
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.step import Metrics
from anchordetr_jax.training.watching.log_interval import LogInterval

_SHOWN_IMAGES = 8
_HOPELESS = 8
"""If this number of images cannot be read before the first good one, the run ends."""
_SHOWN = {"loss": "loss", "loss/class": "class", "loss/box": "box", "loss/giou": "giou"}


class Progress:
    """Follows the steps of a run. A context manager.

    Metrics are fetched one step late, so that the host prepares the next step while the device computes this one.
    """

    def __init__(
        self,
        first_step: int,
        total_steps: int,
        *,
        max_bad_steps: int,
        interval: LogInterval | None = None,
        unreadable: Iterable[int] = (),
    ):
        """Begins at a step, with what was noted of the steps before it.

        Args:
            first_step: steps taken so far.
            total_steps: steps of the whole run.
            max_bad_steps: the run ends after this number of refused steps in a row.
            interval: metrics of the steps since the last line of the log.
            unreadable: rows of the images that could not be read so far.
        """
        self._max_bad_steps = max_bad_steps
        self._pending: tuple[int, Metrics, Callable[[], list[str]]] | None = None
        self._next_images: Callable[[], list[str]] = list
        self.interval = interval or LogInterval()
        self._latest: dict[str, float] = {}
        self._images = 0
        self._since = time.perf_counter()
        self.unreadable = set(unreadable)
        self._named: set[int] = set()
        self._any_readable = False
        self._shapes: set[tuple[int, ...]] = set()
        self._bar = tqdm(
            initial=first_step,
            total=total_steps,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=jax.process_index() > 0,
        )

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if jax.process_index() == 0:
            self._bar.write(line)

    def before_step(self, batch: Batch, describe: Callable[[int], str], problem: Callable[[int], str | None]) -> None:
        """Names images that could not be read, each once. Says when a shape of images is new: the step is compiled.

        `describe` names an image by its row, in case the step is refused. `problem` says why it cannot be read.

        Raises:
            UserError: none of the first images could be read.
        """
        rows = batch.rows[batch.valid].tolist()
        self._any_readable = self._any_readable or bool(rows)
        self._next_images = lambda: [describe(row) for row in rows]
        for row in batch.rows[~batch.valid & (batch.rows >= 0)].tolist():
            if row not in self._named:
                self._named.add(row)
                self.unreadable.add(row)
                # Each process sees only its share of the images, so every process prints this.
                why = problem(row) or f"Image {describe(row)} could not be read."
                self._bar.write(f"{why} Training goes on without it.")
        if len(self._named) >= _HOPELESS and not self._any_readable:
            raise UserError(
                f"None of the first {len(self._named)} images can be read, for example {describe(min(self._named))}: "
                "correct data.root, data.train_images or the files; anchordetr inspect lists all problems."
            )
        if batch.images.shape not in self._shapes:
            self._shapes.add(batch.images.shape)
            self._bar.set_description("train (compiling {}x{})".format(*batch.images.shape[1:3]))

    def after_step(self, step: int, metrics: Metrics, images: int) -> None:
        """Notes that a step was started. `images`: the number of its images, over all processes."""
        self.flush()
        self._pending = (step, metrics, self._next_images)
        self._images += images
        self._bar.update()

    def flush(self) -> None:
        """Waits for the last step and reads its metrics.

        Raises:
            UserError: too many steps in a row were refused because the loss or the gradient was not finite.
        """
        if self._pending is None:
            return
        (step, metrics, images), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._bar.set_description("train", refresh=False)
        self._latest = values
        if not values["refused"]:
            self.interval.add(values)
            return
        names = images()
        shown = ", ".join(names[:_SHOWN_IMAGES]) + (", …" if len(names) > _SHOWN_IMAGES else "")
        # Each process names the images of its share.
        self._bar.write(
            f"Step {step}: loss {values['loss']:g}, gradient norm {values['grad_norm']:g}; the step is refused. Its "
            f"images: {shown}"
        )
        if values["bad_steps_in_row"] >= self._max_bad_steps:
            raise UserError(
                f"Loss or gradient was not finite in {self._max_bad_steps} steps in a row, up to step {step}: "
                "lower optimizer.learning_rate, or look at the images of these steps (named above); the last "
                "checkpoint is kept."
            )

    def refused(self) -> bool:
        """Waits for the last step, as `flush` does. Whether it was refused."""
        self.flush()
        return bool(self._latest.get("refused"))

    def summarise(self) -> dict[str, float]:
        """The numbers for a line of `metrics.jsonl`: means over the steps since the last line. Updates the bar."""
        self.flush()
        means = self.interval.means()
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        self._bar.set_postfix_str(
            " ".join(f"{short} {means[name]:.3f}" for name, short in _SHOWN.items()) + f", {rate:.1f} images/s"
        )
        rates = {name: self._latest[name] for name in ("learning_rate", "backbone_learning_rate") if self._latest}
        counts = {"bad_steps": int(self._latest.get("bad_steps", 0)), "unreadable_images": len(self.unreadable)}
        self.interval = LogInterval()
        self.restart_clock()
        return {**means, **rates, **counts, "images_per_second": rate}

    def restart_clock(self) -> None:
        """Keeps the time of other work (an evaluation, for example) out of the images per second."""
        self._images, self._since = 0, time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
