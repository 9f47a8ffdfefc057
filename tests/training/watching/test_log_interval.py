"""The metrics between two lines of the log: which of them there are, and what a checkpoint keeps of them."""

from anchordetr_jax.training.watching.log_interval import AVERAGED, DENOISING, LogInterval

PLAIN = dict.fromkeys(AVERAGED, 1.0)
DENOISED = {**PLAIN, **dict.fromkeys(DENOISING, 3.0)}


def means(*steps: dict[str, float]) -> dict[str, float]:
    interval = LogInterval()
    for metrics in steps:
        interval = LogInterval.from_dict(interval.to_dict())  # As a checkpoint keeps it.
        interval.add(metrics)
    return interval.means()


def test_losses_of_denoising_are_averaged_like_others() -> None:
    assert means(DENOISED, {**DENOISED, "denoising/box": 4.0}) == {**DENOISED, "denoising/box": 3.5}


def test_an_interval_in_which_denoising_is_switched_on_or_off_has_none_of_its_losses() -> None:
    assert means(PLAIN, DENOISED) == means(DENOISED, PLAIN) == PLAIN
