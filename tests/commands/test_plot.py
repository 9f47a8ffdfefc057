"""`anchordetr plot` says which runs it cannot draw."""

from pathlib import Path

import pytest

from anchordetr_jax.commands import main


def write_runs(root: Path, **contents: str) -> list[str]:
    for name, content in contents.items():
        (root / name).mkdir()
        (root / name / "metrics.jsonl").write_text(content)
    return [str(root / name) for name in contents]


@pytest.mark.parametrize("content", ["", "no JSON\n", '{"loss": 3.0}\n'])
def test_a_run_without_metrics_is_named_beside_the_picture_of_the_others(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write_runs(tmp_path, begun=content, going='{"step": 1, "loss": 3.0}\n')
    assert main(["plot", *runs, "--output", str(tmp_path / "runs.png")]) == 0
    expected = f"{tmp_path}/begun/metrics.jsonl has no metrics yet: this run is not in the picture.\n"
    assert capsys.readouterr().err == expected
    assert (tmp_path / "runs.png").exists()


def test_another_kind_of_picture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_runs(tmp_path, going='{"step": 1, "loss": 3.0}\n')
    assert main(["plot", *runs, "--output", str(tmp_path / "runs.jpg")]) == 1
    assert "--output must end in .png" in capsys.readouterr().err


def test_runs_of_which_none_has_metrics_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = write_runs(tmp_path, begun="", failed="")
    assert main(["plot", *runs, "--output", str(tmp_path / "runs.png")]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path}/begun/metrics.jsonl has no metrics yet; {tmp_path}/failed/metrics.jsonl has no" in message
    assert "there is nothing to draw" in message
    assert not (tmp_path / "runs.png").exists()
