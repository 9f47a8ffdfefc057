"""What the reports of several processes say about them."""

import dataclasses
import re
import threading

from anchordetr_jax.errors import result_or_error
from anchordetr_jax.training.watching.watchdog import Peer, Report, Watchdog, _place, find_fault

TIMEOUT = 10.0


def peers(**changes: object) -> dict[int, Peer]:
    """Three processes that were heard at time 100 and began step 7 then; the second has `changes` in its report."""
    found = {index: Peer() for index in range(3)}
    for index, peer in found.items():
        report = Report(beat=5, step=7)
        peer.hear(dataclasses.replace(report, **changes) if index == 1 else report, now=100.0)  # type: ignore[arg-type]
    return found


def heard(found: dict[int, Peer], now: float, *, but: int | None = None, **changes: object) -> dict[int, Peer]:
    """The same processes, all but one heard again."""
    for index, peer in found.items():
        if index != but:
            assert peer.report is not None
            report = dataclasses.replace(peer.report, beat=peer.report.beat + 1)
            peer.hear(dataclasses.replace(report, **changes), now)  # type: ignore[arg-type]
    return found


def test_processes_that_answer_and_take_steps_have_no_fault() -> None:
    assert find_fault(heard(peers(), 150, step=8), 0, 151, TIMEOUT) is None


def test_a_silent_process_is_named() -> None:
    assert find_fault(heard(peers(), 109, but=1), 0, 109, TIMEOUT) is None
    fault = find_fault(heard(peers(), 111, but=1), 0, 111, TIMEOUT)
    assert fault == "Process 1 has not answered for 11 s: it hangs or has died"


def test_a_process_that_left_is_named_with_its_reason() -> None:
    fault = find_fault(peers(state="left", reason="The disk is full."), 0, 100, TIMEOUT)
    assert fault == "Process 1 has stopped (The disk is full.)"


def test_a_process_that_is_done_may_be_silent() -> None:
    assert find_fault(heard(peers(state="done"), 150, but=1), 0, 150, TIMEOUT) is None


def test_a_process_that_answers_but_begins_no_step_is_named() -> None:
    found = peers(step=6)
    assert find_fault(heard(found, 199), 0, 199, TIMEOUT) is None
    assert (
        find_fault(heard(found, 201), 0, 201, TIMEOUT) == "Process 1 answers but has been stuck before step 7 for 101 s"
    )


def test_the_place_of_a_thread_is_its_innermost_line_of_this_package_in_whatever_folder() -> None:
    begun, end = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=result_or_error, args=(wait,))
    thread.start()
    begun.wait()
    place, mark = _place(thread.ident)
    end.set()
    thread.join()
    assert re.fullmatch(r"errors\.py:\d+", place)
    assert mark


def test_processes_stuck_in_the_same_step_are_reported_with_their_places() -> None:
    found = peers(place="data/coco.py:7", mark="x")
    fault = find_fault(heard(found, 201), 0, 201, TIMEOUT)
    assert fault == "No process has gone on from step 7 for 101 s (process 1 is at data/coco.py:7)"


def test_an_evaluation_that_moves_is_not_a_fault() -> None:
    found = heard(peers(place="data/coco.py:7", mark="x"), 150, mark="y")
    assert find_fault(heard(found, 201), 0, 201, TIMEOUT) is None


def test_a_process_that_never_begins_is_named() -> None:
    found = peers() | {2: Peer(heard_at=100.0, moved_at=100.0)}
    assert find_fault(heard(found, 150, but=2), 0, 150, TIMEOUT) is None
    fault = find_fault(heard(found, 201, but=2), 0, 201, TIMEOUT)
    assert fault == "Process 2 has not begun to train 101 s after this one"


def test_a_run_of_one_process_is_not_watched() -> None:
    with Watchdog(TIMEOUT) as watchdog:
        watchdog.begin_step(1)
        assert watchdog._threads == []
