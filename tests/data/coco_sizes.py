"""Image sizes mixed as in COCO."""

import numpy as np


def coco_sizes(count: int) -> np.ndarray:
    """Sizes (h, w) mixed as in COCO: a few that most images have, and many others."""
    known = {
        **{(480, 640): 0.215, (427, 640): 0.135, (640, 480): 0.085, (375, 500): 0.06, (426, 640): 0.05},
        **{(640, 427): 0.05, (425, 640): 0.035, (612, 612): 0.025, (500, 375): 0.025, (333, 500): 0.02},
        **{(428, 640): 0.02, (360, 640): 0.02, (640, 640): 0.015, (640, 426): 0.015, (500, 333): 0.012},
    }
    rng = np.random.default_rng(0)
    long = rng.choice([640, 500, 612], count, p=[0.8, 0.15, 0.05])
    short = np.round(long * np.clip(rng.normal(0.72, 0.13, count), 0.25, 1)).astype(int)
    lying = (rng.random(count) < 0.68)[:, None]
    others = np.where(lying, np.stack([short, long], axis=1), np.stack([long, short], axis=1))
    which = rng.choice(len(known) + 1, count, p=[*known.values(), 1 - sum(known.values())])
    return np.where((which < len(known))[:, None], np.array([*known, (0, 0)])[which], others)
