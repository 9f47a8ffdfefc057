import json
import os
from pathlib import Path

import fsspec
import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import path_here, stored_path, write_atomically, write_json


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://x.org/run", r"https://x\.org/run is not on this machine: download it first"),
        ("gs://bucket/run", "pip install gcsfs"),
        ("s3://bucket/run", "pip install s3fs"),
    ],
)
def test_a_url_that_cannot_be_read_is_named_with_the_remedy(url, message, monkeypatch):
    monkeypatch.setattr(fsspec, "get_filesystem_class", _refuse)
    with pytest.raises(UserError, match=message):
        stored_path(url)


def test_an_address_is_no_path_on_this_machine(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert path_here("~/runs") == Path("/home/me/runs")
    for address in ("gs://bucket/run", Path("gs://bucket/run"), "file:///tmp/run"):
        with pytest.raises(UserError, match=rf"^{address} is an address: give a plain path on this machine"):
            path_here(address)


def _refuse(scheme):
    raise ImportError


def test_a_file_and_its_folder_are_made(tmp_path):
    write_atomically(tmp_path / "a" / "b.bin", b"123")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"123"
    assert os.listdir(tmp_path / "a") == ["b.bin"]


def test_what_was_there_survives_a_failed_write(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    target.write_text("old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"results\.json \(No space left on device\)"):
        write_atomically(target, b"new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_json(tmp_path / "file" / "results.json", [])


def test_json_is_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"score": 0.1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"score": 0.1}
