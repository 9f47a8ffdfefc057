"""Flags of `anchordetr verify` that make no sense are refused before anything is computed."""

from pathlib import Path

import pytest

from anchordetr_jax.commands.verify import main, parser
from anchordetr_jax.errors import UserError


@pytest.mark.parametrize(
    ("flags", "least"),
    [
        ("official --repo there --images photos --count 0", 1),
        ("detrex --repo there --images photos --count -1", 1),
        ("released --repo there --images photos --short-side 0", 1),
        ("released --repo there --data-count -1", 0),
        ("official --repo there --steps -3", 0),
        ("official --repo there --steps many", 0),
        ("detrex --repo there --seed -1", 0),
        ("evaluation WEIGHTS --repo there --data coco --count -2", 0),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(flags: str, least: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(flags.split())
    flag, value = flags.split()[-2:]
    expected = f"argument {flag}: it must be a whole number, at least {least}, not {value!r}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("command", ["official", "detrex", "released"])
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--count 3", "--count"),
        ("--short-side 64", "--short-side"),
        ("--count 3 --short-side 64", "--count and --short-side"),
    ],
)
def test_flags_about_photographs_need_photographs(command: str, flags: str, named: str) -> None:
    with pytest.raises(UserError, match=rf"^Only photographs have {named}: add --images DIR"):
        main([command, "--repo", "there", *flags.split()])


@pytest.mark.parametrize("command", ["official", "detrex", "released"])
def test_sizes_need_synthetic_images(command: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Only synthetic images have --sizes: leave it out, or --images"):
        main([command, "--repo", "there", "--images", str(tmp_path), "--sizes", "64x64"])


def test_zero_steps_and_all_images_have_a_meaning() -> None:
    assert parser().parse_args(["official", "--repo", "there", "--steps", "0"]).steps == 0
    assert (
        parser().parse_args(["evaluation", "WEIGHTS", "--repo", "there", "--data", "coco", "--count", "0"]).count == 0
    )
