"""What went wrong with a checkpoint is said in one sentence, with the system's own reason."""

import pytest

from anchordetr_jax.checkpoints.failures import brief


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "/a/file"), "No space left on device"),
        (
            ValueError(
                f'RESOURCE_EXHAUSTED: Failed writing: "{"/a" * 200}": Failed to write 7 bytes to file 8: No space left '
                "on device [os_error_code='28']"
            ),
            "No space left on device",
        ),
        (ValueError("first line\nsecond line"), "first line"),
        (ValueError("word " * 100), " ".join(["word"] * 39) + " …"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_reported_briefly_with_its_reason(error: Exception, told: str) -> None:
    wrapped = RuntimeError("while saving")
    wrapped.__cause__ = error
    assert brief(wrapped) == told
