"""What the official code computes for one small batch of random predictions."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def official() -> dict[str, np.ndarray]:
    """Inputs and results of the official PyTorch code (commit 0b4358a) in float64.

    2 layers, 3 images, 12 queries, 5 classes: its matcher, its criterion (unweighted losses per layer, and the
    gradients of the weighted sum) and its post-processing (cut to the best 20). The images have 4, 0 and 2 boxes; what
    stands in padded rows is random.
    """
    with np.load(Path(__file__).with_name("official.npz")) as file:
        return dict(file)
