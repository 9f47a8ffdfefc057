"""Which steps make up which epoch, also after the batch size or the number of images has changed."""

from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.data.epochs import Epochs

IMAGES = st.integers(1, 60)
BATCH_SIZES = st.integers(1, 16)
STEPS = st.integers(0, 500)


@st.composite
def changed_epochs(draw: st.DrawFn) -> tuple[Epochs, int]:
    """Epochs after up to three changes, and the step of the last change."""
    epochs, step = Epochs(draw(IMAGES), draw(BATCH_SIZES)), 0
    for _ in range(draw(st.integers(0, 3))):
        step += draw(st.integers(0, 100))
        epochs = epochs.continued(step, draw(IMAGES), draw(BATCH_SIZES))
    return epochs, step


@given(changed_epochs(), STEPS)
def test_a_step_is_in_the_epoch_that_plans_it(changed: tuple[Epochs, int], more: int) -> None:
    epochs, step = changed[0], changed[1] + more
    epoch = epochs.epoch_of_step(step)
    assert epochs.steps_before(epoch) <= step < epochs.steps_before(epoch + 1)
    assert epochs.position(step) >= 0


@given(changed_epochs(), STEPS)
def test_epochs_grow_with_steps_and_are_whole_where_an_epoch_ends(changed: tuple[Epochs, int], more: int) -> None:
    epochs, step = changed[0], changed[1] + more
    epoch = epochs.epoch_of_step(step)
    assert epochs.at(epochs.steps_before(epoch)) == epoch
    assert epoch <= epochs.at(step) < epochs.at(step + 1)


@given(changed_epochs(), STEPS)
def test_without_a_change_everything_stays(changed: tuple[Epochs, int], more: int) -> None:
    epochs, step = changed
    assert epochs.continued(step + more, epochs.images, epochs.batch_size) is epochs


@given(changed_epochs(), STEPS, IMAGES, BATCH_SIZES)
def test_epochs_that_are_done_stay_done(changed: tuple[Epochs, int], more: int, images: int, batch_size: int) -> None:
    epochs, step = changed[0], changed[1] + more
    done = epochs.epoch_of_step(step) if step else 0
    after = epochs.continued(step, images, batch_size)
    assert after.steps_before(done) <= step
    assert step <= after.steps_before(done + 1)
    if step == epochs.steps_before(done) and step:  # At the end of an epoch: no part of it is repeated.
        assert after.steps_before(done) == step
        assert after.steps_before(done + 3) == step + 3 * images // batch_size


def test_two_of_four_epochs_remain_two_with_twice_the_batch_size() -> None:
    """The counts of the report: 12 images, batches of 2, then of 4."""
    before = Epochs(12, 2)
    after = before.continued(12, 12, 4)
    assert (before.at(12), after.at(12)) == (2, 2)
    assert after.steps_before(4) == 12 + 2 * 3
    assert after.steps_before(3) == 12 + 3


def test_an_epoch_that_has_begun_is_ended_with_the_new_data() -> None:
    after = Epochs(100, 10).continued(15, 200, 10)  # One and a half epochs are done.
    assert after.steps_before(2) == 15 + 10
    assert after.steps_before(3) == 15 + 30
