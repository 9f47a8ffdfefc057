"""What a run needs besides its arrays to continue as if it had not been stopped."""

import dataclasses
from typing import Any

from anchordetr_jax.checkpoints.checkpoint import CheckpointMeta
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.training.watching.log_interval import LogInterval


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Kept in the item `meta` of each checkpoint of a run, under "run"."""

    epochs: Epochs
    """Which steps make up which epoch."""
    interval: LogInterval = dataclasses.field(default_factory=LogInterval)
    """Metrics of the steps since the last line of the log."""
    unreadable: tuple[int, ...] = ()
    """Rows of the images of process 0 that could not be read so far."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "epochs": dataclasses.asdict(self.epochs),
            "interval": self.interval.to_dict(),
            "unreadable": list(self.unreadable),
        }

    @classmethod
    def of(cls, meta: CheckpointMeta, images: int) -> "RunRecord":
        """The record of a checkpoint. `images`: the number of training images today.

        Checkpoints of older versions have none. They say with which batch size they were trained, but not how many
        images there were: as many as today is assumed.
        """
        if not meta.run:
            return cls(Epochs(images, meta.config.train.batch_size))
        epochs = Epochs(**meta.run["epochs"])
        # With other images the rows mean other files.
        unreadable = tuple(meta.run["unreadable"]) if epochs.images == images else ()
        return cls(epochs, LogInterval.from_dict(meta.run["interval"]), unreadable)
