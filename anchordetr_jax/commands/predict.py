"""Detects objects in images, folders of images and videos, and draws them.

anchordetr predict IMAGE_OR_FOLDER... --checkpoint runs/mine --output DIR [--threshold 0.5] [--tiles 640] [--track]

Without --threshold each class has its own: the one with the best F1 score in the evaluation of the checkpoint. DIR gets
a picture with boxes for every image, an MP4 for every video (this needs `pip install av`), and detections.json in
COCO's form. --checkpoint is a published model such as anchordetr-r50-dc5, a run's workdir, one checkpoint, a .pth or
.safetensors file, a folder of save_pretrained, or hf://ORGANISATION/NAME. The command names each file that it cannot
read and continues; it fails if it can read none.
"""

import collections
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import flags
from etils import epath
from tqdm.auto import tqdm

from anchordetr_jax import cli
from anchordetr_jax.data.images import SUFFIXES
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.results import not_finite_sentence
from anchordetr_jax.files import path_here, write_json
from anchordetr_jax.prediction.detections import Detections, nothing_found_sentence, thresholds_sentence
from anchordetr_jax.prediction.detector import Detector
from anchordetr_jax.prediction.inputs import VIDEO_SUFFIXES, is_video, list_folder, local_path
from anchordetr_jax.prediction.output_names import output_names
from anchordetr_jax.prediction.selection import check_limits
from anchordetr_jax.prediction.tracking import Tracker, require
from anchordetr_jax.prediction.video import UnreadableVideoError, VideoReader, VideoWriter

FLAGS = flags.FlagValues()
read_detector = cli.define_detector(FLAGS)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for pictures and detections.json.", required=True, flag_values=FLAGS
)
THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Detections with a lower score are left out. By default: for each class the threshold with the best F1 score in "
    "the evaluation of the checkpoint, or 0.5 where no evaluation tells it.",
    flag_values=FLAGS,
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "The number of images or frames that the network gets at a time.", flag_values=FLAGS
)
read_tiles = cli.define_tiles(FLAGS)
TRACK = flags.DEFINE_bool(
    "track",
    False,
    "In videos: give each object a number that it keeps from frame to frame (pip install trackers).",
    flag_values=FLAGS,
)
DRAW = flags.DEFINE_bool("draw", True, "Draw pictures; --nodraw writes detections.json only.", flag_values=FLAGS)

DETECTIONS_FILE = "detections.json"
Item = TypeVar("Item")


def main(arguments: list[str]) -> None:
    check_limits(THRESHOLD.value, BATCH_SIZE.value)
    read_tiles()
    paths = all_files(arguments)
    if TRACK.value and not any(map(is_video, paths)):
        raise UserError("--track is for videos, and there is none: leave it out.")
    if TRACK.value:
        require()
    output = path_here(OUTPUT.value)
    targets = dict(zip(paths, output_names(paths), strict=True))
    check_output(output, targets)
    cli.prepare_computation()
    detector = read_detector()
    if THRESHOLD.value is None:
        by_class = {name: detector.threshold_of(label) for label, name in detector.names.items()}
        print(thresholds_sentence(by_class, evaluated=detector.thresholds is not None))
    results = Results(detector, len(paths))
    try:
        detect_on_images(detector, [path for path in paths if not is_video(path)], output, targets, results)
        for path in filter(is_video, paths):
            detect_on_video(detector, path, output / targets[path], results)
    finally:  # Also after Ctrl-C.
        if results.records:
            write_json(output / DETECTIONS_FILE, results.as_coco(paths))
    report(output, results)


class Results:
    """The detections of all images and frames, and what to say about them."""

    def __init__(self, detector: Detector, num_given: int):
        self.detector = detector
        self.num_given = num_given
        self.records: dict[tuple[str, int], tuple[dict[str, Any], Detections]] = {}
        """The entry of an image and its detections, by file and (of a video) frame."""
        self.unreadable = 0
        self.incomplete = 0
        self.seen_once = False
        """Whether a video has no track, though an object in it reached its threshold."""

    def add(self, path: str, detections: Detections, **frame: Any) -> None:
        """Keeps the detections of an image, or of a `frame` of a video."""
        height, width = detections.image_size
        image = {"file_name": path, "width": width, "height": height, **frame}
        self.records[path, frame.get("frame", 0)] = (image, detections)

    def skip(self, problem: UserError) -> None:
        """Names a file that cannot be read, and continues if there are several files."""
        if self.num_given == 1:
            raise problem
        tqdm.write(f"{problem} It is left out.", file=sys.stderr)
        self.unreadable += 1

    def cut_short(self, problem: object, num_frames: int) -> None:
        """Says of a video that only its first frames can be read."""
        tqdm.write(f"Warning: {problem} Only its first {counted(num_frames, 'frame')} can be read.", file=sys.stderr)
        self.incomplete += 1

    @property
    def num_files(self) -> int:
        return len({path for path, _ in self.records})

    @property
    def num_objects(self) -> int:
        return sum(len(detections) for _, detections in self.records.values())

    @property
    def best_score(self) -> float:
        return max((detections.best_score for _, detections in self.records.values()), default=0.0)

    @property
    def not_finite(self) -> int:
        return sum(detections.not_finite for _, detections in self.records.values())

    def as_coco(self, paths: Sequence[str]) -> dict[str, Any]:
        """A data set in COCO's form whose annotations have scores. Its images are in the order of the files."""
        places = {path: place for place, path in enumerate(paths)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for key in sorted(self.records, key=lambda key: (places[key[0]], key[1])):
            image, detections = self.records[key]
            images.append({"id": len(images) + 1, **image})
            for entry in detections.to_coco(len(images)):
                area = round(entry["bbox"][2] * entry["bbox"][3], 3)
                annotations.append({"id": len(annotations) + 1, **entry, "area": area, "iscrowd": 0})
        ids = self.detector.category_ids
        categories = [{"id": ids[label], "name": name} for label, name in self.detector.names.items()]
        return {"images": images, "annotations": annotations, "categories": categories}


def all_files(arguments: Sequence[str]) -> list[str]:
    """All images and videos, also those in folders, each once."""
    if not arguments:
        raise UserError("Say which images: anchordetr predict IMAGE_OR_FOLDER... --checkpoint ... --output DIR.")
    found: dict[str, str] = {}
    for argument in arguments:
        path = local_path(argument)
        for file in list_folder(path, (*SUFFIXES, *VIDEO_SUFFIXES)) if epath.Path(path).is_dir() else [path]:
            found.setdefault(file if "://" in file else os.path.realpath(file), file)
    return list(found.values())


def check_output(output: Path, targets: dict[str, str]) -> None:
    """Makes the folder. Raises `UserError` if it cannot, or a picture would replace an image."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".{os.getpid()}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {output} ({error.strerror}); give another --output.") from None
    inputs = {os.path.realpath(path) for path in targets}
    for name in targets.values():
        if os.path.realpath(output / name) in inputs:
            raise UserError(f"The picture {output / name} would replace the image itself; give another --output.")


def detect_on_images(
    detector: Detector, paths: list[str], output: Path, targets: dict[str, str], results: Results
) -> None:
    """Detects and draws. Pictures are drawn and written while the next batch is computed."""
    drawing: collections.deque[Any] = collections.deque()
    with (
        ThreadPoolExecutor(max_workers=4) as pool,
        tqdm(total=len(paths), unit="image", dynamic_ncols=True, disable=not paths) as bar,
    ):
        try:
            tiles, overlap = read_tiles()
            for index, outcome in detector.predict_each(
                paths, THRESHOLD.value, batch_size=BATCH_SIZE.value, tiles=tiles, overlap=overlap
            ):
                path = paths[index]
                if isinstance(outcome, UserError):
                    results.skip(outcome)
                else:
                    results.add(path, outcome)
                    if DRAW.value:
                        drawing.append(pool.submit(draw, outcome, output / targets[path]))
                    if len(drawing) > 2 * BATCH_SIZE.value:
                        drawing.popleft().result()
                bar.update()
            for picture in drawing:
                picture.result()
        finally:
            pool.shutdown(cancel_futures=True)


def draw(detections: Detections, target: Path) -> None:
    """Writes an image's picture."""
    picture = detections.draw()
    try:
        picture.save(target, quality=92)  # JPEG files use it, PNG files do not.
    except OSError as error:
        raise UserError(f"Cannot write {target} ({error.strerror or error}); check the disk.") from error


def detect_on_video(detector: Detector, path: str, target: Path, results: Results) -> None:
    """Detects on every frame and writes a video with boxes, without sound."""
    tiles, overlap = read_tiles()
    try:
        with VideoReader(path) as reader, VideoWriter(target, reader.rate) as writer:
            rate = float(reader.rate)
            tracker = (
                Tracker({label: threshold_of(detector, label) for label in detector.names}, rate)
                if TRACK.value
                else None
            )
            threshold = THRESHOLD.value if tracker is None else tracker.lowest
            number, damage = 0, list[UnreadableVideoError]()
            with tqdm(desc=Path(path).name, total=reader.num_frames, unit="frame", dynamic_ncols=True) as bar:
                for part in read_ahead(chunks(until_damage(reader.timed(), damage), BATCH_SIZE.value)):
                    frames = [frame for _, frame in part]
                    found = detector.predict(
                        frames, threshold, batch_size=BATCH_SIZE.value, tiles=tiles, overlap=overlap
                    )
                    for (seconds, frame), detections in zip(part, found, strict=True):
                        if tracker is not None:
                            detections = tracker.follow(detections)
                        if DRAW.value:
                            writer.add(np.asarray(detections.draw(frame)))
                        results.add(path, detections, frame=number, seconds=round(seconds, 3))
                        number += 1
                    bar.update(len(frames))
            if number == 0:
                raise damage[0] if damage else UnreadableVideoError(f"Video {path} has no frame that can be read.")
            if problem := damage[0] if damage else reader.cut_off():
                results.cut_short(problem, number)
            if tracker is not None:
                tqdm.write(f"{path}: {counted(tracker.num_tracks, 'track')}")
                results.seen_once |= tracker.could_begin and tracker.num_tracks == 0
    except UnreadableVideoError as error:
        results.skip(error)


def until_damage(frames: Iterator[Item], damage: list[UnreadableVideoError]) -> Iterator[Item]:
    """The frames before the first one that is damaged. The error goes into `damage`."""
    try:
        yield from frames
    except UnreadableVideoError as error:
        damage.append(error)


def threshold_of(detector: Detector, label: int) -> float:
    """The score from which a detection of a class output counts."""
    return detector.threshold_of(label) if THRESHOLD.value is None else THRESHOLD.value


def chunks(frames: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Frames, `size` at a time."""
    while chunk := list(itertools.islice(frames, size)):
        yield chunk


def read_ahead(parts: Iterator[list[Item]]) -> Iterator[list[Item]]:
    """The parts. Each is decoded while the caller works on the part before it."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming: Future[list[Item]] = pool.submit(next, parts, [])
        while part := coming.result():
            coming = pool.submit(next, parts, [])
            yield part


def report(output: Path, results: Results) -> None:
    """Prints a summary. Raises `UserError` if no file could be read."""
    if not results.records:
        raise UserError(f"None of the {results.num_given} files could be read.")
    if results.not_finite:
        print(f"Warning: {not_finite_sentence(results.not_finite)}", file=sys.stderr)
    frames = "" if len(results.records) == results.num_files else f" ({len(results.records)} images and frames)"
    skipped = f"; {results.unreadable} could not be read" if results.unreadable else ""
    skipped += f"; {counted(results.incomplete, 'video')} incomplete" if results.incomplete else ""
    objects, files = counted(results.num_objects, "object"), counted(results.num_files, "file")
    print(f"{output} has {objects} in {files}{frames}{skipped}")
    if results.num_objects == 0 and results.seen_once:
        print(
            "No object was seen in two frames in a row, so there is no track: without --track, objects that are in one "
            "frame count too."
        )
    elif results.num_objects == 0 and results.best_score > 0:
        print(nothing_found_sentence(THRESHOLD.value, results.best_score, results.detector.recommended_threshold))


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
