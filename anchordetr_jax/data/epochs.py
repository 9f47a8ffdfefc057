"""Which steps of a training make up which epoch."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Training is one stream of images: permutation 0 of the data set, then permutation 1, and so on.

    With repeat-factor sampling, a permutation has images with rare classes more than once.

    Step k takes `batch_size` images of this stream, from position k * batch_size + offset on. Epoch e ends with the
    last step that fits into the first e + 1 permutations. Steps, epochs and positions count from 0.
    """

    images: int
    """Number of images of a permutation."""
    batch_size: int
    """Images per step, over all processes."""
    offset: int = 0
    """Not 0 if the batch size or the number of images changed during the training (see `continued`)."""

    def position(self, step: int) -> int:
        """The position in the stream at which a step begins."""
        return step * self.batch_size + self.offset

    def steps_before(self, epoch: int) -> int:
        """The number of steps before an epoch begins. It is also the number of steps of `epoch` whole epochs."""
        return (epoch * self.images - self.offset) // self.batch_size

    def epoch_of_step(self, step: int) -> int:
        """The epoch that a step belongs to. It is also the number of whole epochs that `step` steps complete."""
        return (self.position(step + 1) - 1) // self.images

    def at(self, step: int) -> float:
        """How many epochs `step` steps are."""
        epoch = self.epoch_of_step(step)
        first, stop = self.steps_before(epoch), self.steps_before(epoch + 1)
        return epoch + (step - first) / (stop - first)

    def continued(self, step: int, images: int, batch_size: int) -> "Epochs":
        """The epochs of a training that goes on after `step` steps with other data or another batch size.

        The epochs that are done stay done. What remains is counted with the new numbers: the rest of the epoch that
        has begun, and all later epochs.
        """
        if (images, batch_size) == (self.images, self.batch_size):
            return self
        if step == 0:
            return Epochs(images, batch_size)
        epoch = self.epoch_of_step(step)
        if self.steps_before(epoch) == step:  # No step of this epoch is taken yet.
            position = epoch * images
        else:
            position = self.position(step) * images // self.images
        return Epochs(images, batch_size, position - step * batch_size)
