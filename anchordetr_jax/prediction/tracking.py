"""Objects that keep their number from frame to frame of a video: ByteTrack, of the package trackers."""

import importlib.util

import numpy as np

from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.detections import Detections

LOWEST = 0.25
"""Detections that score at least this share of the threshold continue a track. A track does not begin with them."""
SECONDS_LOST = 1.0
"""How long a track waits for its object to be seen again."""


def require() -> None:
    """Raises `UserError` unless the package trackers, which brings supervision, is installed."""
    for package in ("trackers", "supervision"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"Tracking needs the package {package}: pip install trackers.")


class Tracker:
    """Gives the detections of one video's frames the numbers of their tracks (Zhang et al., "ByteTrack", 2022).

    Each class has a tracker of its own, so a track has one class.
    """

    def __init__(self, thresholds: dict[int, float], frame_rate: float):
        """Prepares a video.

        Args:
            thresholds: for each class output, the score from which a detection may begin a track.
            frame_rate: frames per second.

        Raises:
            UserError: the package trackers is not installed.
        """
        require()
        from trackers import ByteTrackTracker

        self.lowest = LOWEST * min(thresholds.values(), default=1.0)
        """Give `follow` all detections with at least this score."""
        self.could_begin = False
        """Whether a detection has reached its threshold, so that a track would have begun in the next frame."""
        self._thresholds = thresholds
        self._trackers = {
            label: ByteTrackTracker(
                lost_track_buffer=round(30 * SECONDS_LOST),  # In frames of a video of 30 a second.
                frame_rate=frame_rate,
                track_activation_threshold=threshold,
                high_conf_det_threshold=threshold,
            )
            for label, threshold in thresholds.items()
        }
        self._numbers: dict[tuple[int, int], int] = {}

    def follow(self, detections: Detections) -> Detections:
        """The detections of the next frame that belong to a track, with `track_ids`; the first track is 1.

        A track begins when a detection reaches the threshold and its object is seen in the next frame, too, where
        `LOWEST` of the threshold is enough. So the first frame has none.
        """
        places: list[int] = []
        numbers: list[int] = []
        for label, tracker in self._trackers.items():
            own = np.flatnonzero((detections.labels == label) & (detections.scores >= LOWEST * self._thresholds[label]))
            self.could_begin |= bool((detections.scores[own] >= self._thresholds[label]).any())
            given = detections[own].to_supervision()
            given.data["place"] = own
            tracked = tracker.update(given)
            if len(tracked) == 0 or tracked.tracker_id is None:
                continue
            for place, number in zip(tracked.data["place"], tracked.tracker_id, strict=True):
                if number >= 0:
                    places.append(int(place))
                    numbers.append(self._numbers.setdefault((label, int(number)), len(self._numbers) + 1))
        order = np.argsort(places, kind="stable")  # Their scores are in descending order again.
        chosen = np.array(places, np.int64)[order]
        return detections[chosen].with_tracks(np.array(numbers, np.int64)[order])

    @property
    def num_tracks(self) -> int:
        """The number of tracks so far."""
        return len(self._numbers)
