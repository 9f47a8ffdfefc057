"""What a person sees of a run."""

import numpy as np
import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.training.step import Metrics
from anchordetr_jax.training.watching.log_interval import AVERAGED
from anchordetr_jax.training.watching.progress import Progress
from tests.training.tiny import batch


def metrics(in_row: int) -> Metrics:
    loss = np.nan if in_row else 1.0
    values = {**dict.fromkeys(AVERAGED, loss), "refused": min(in_row, 1), "bad_steps_in_row": in_row}
    return {name: np.float32(value) for name, value in values.items()}  # type: ignore[misc]


def steps(in_row: list[int], *, images: int = 2) -> None:
    """Steps on images of their own. `in_row`: after each step, how many steps in a row were refused."""
    with Progress(0, 5, max_bad_steps=2) as progress:
        for step, bad in enumerate(in_row, start=1):
            rows = np.arange(10 * step, 10 * step + images, dtype=np.int32)
            progress.before_step(batch(images=images)._replace(rows=rows), lambda row: f"{row}.jpg", lambda row: None)
            progress.after_step(step, metrics(bad), images=images)
        progress.flush()


def test_the_images_of_a_refused_step_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    steps([0, 1, 0])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    assert line == "Step 2: loss nan, gradient norm nan; the step is refused. Its images: 20.jpg, 21.jpg"


def test_at_most_eight_images_of_a_refused_step_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    steps([1], images=9)
    assert "17.jpg, …" in capsys.readouterr().out


def test_too_many_refused_steps_in_a_row_end_the_run() -> None:
    steps([1, 0, 1, 0])
    with pytest.raises(UserError, match=r"2 steps in a row, up to step 3.*learning_rate"):
        steps([0, 1, 2])


def test_a_run_ends_if_none_of_the_first_images_can_be_read() -> None:
    def see(progress: Progress, first: int, count: int, *, readable: bool) -> None:
        rows = np.arange(first, first + count, dtype=np.int32)
        seen = batch(images=count)._replace(rows=rows, valid=np.full(count, readable))
        progress.before_step(seen, lambda row: f"{row}.jpg", lambda row: None)

    with Progress(0, 5, max_bad_steps=2) as progress:
        see(progress, 0, 7, readable=False)
        see(progress, 7, 1, readable=True)
        see(progress, 8, 9, readable=False)
    with (
        Progress(0, 5, max_bad_steps=2) as progress,
        pytest.raises(UserError, match=r"None of the first 8 images .* 0\.jpg"),
    ):
        see(progress, 0, 8, readable=False)
