"""Detectors on the Hugging Face Hub, through its own package `huggingface_hub`."""

import dataclasses
import importlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.folder import CARD_FILE, CONFIG_FILE, LIBRARY, PREPROCESSOR_FILE, WEIGHTS_FILE

SCHEME = "hf://"
_ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<file>.+))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubOptions:
    """How the Hub is asked. The names are those of `huggingface_hub`."""

    revision: str | None = None
    """Branch, tag or commit. None: that of the address, else the main branch."""
    token: str | bool | None = None
    """Access token. None: the one that `hf auth login` kept, or that of the environment variable `HF_TOKEN`."""
    cache_dir: str | os.PathLike[str] | None = None
    """Where downloads are kept. None: Hugging Face's usual folder."""
    local_files_only: bool = False
    """Take what was downloaded before, and ask nobody."""


class HubAddress(NamedTuple):
    """A parsed "hf://ORGANISATION/NAME", with "@REVISION" and "/FILE" where it has them."""

    repo: str
    revision: str | None
    file: str | None


def parse_address(address: str) -> HubAddress:
    """Raises `UserError` for an address of another form."""
    match = _ADDRESS.fullmatch(address.removeprefix(SCHEME).rstrip("/"))
    if match is None:
        raise UserError(f"{address} is not an address on the Hugging Face Hub: write hf://ORGANISATION/NAME.")
    return HubAddress(match["repo"], match["revision"], match["file"])


def download_repository(address: str, options: HubOptions) -> Path:
    """Downloads what a detector needs, and returns its folder; for an address with a file, that file.

    Raises:
        UserError: `huggingface_hub` is not installed, or the repository or file cannot be had.
    """
    where, hub = parse_address(address), _package()
    if where.revision and options.revision and where.revision != options.revision:
        raise UserError(f"{address} names a revision, and revision={options.revision!r} another: leave one out.")
    asked: dict[str, Any] = {
        "repo_id": where.repo,
        "revision": options.revision or where.revision,
        "token": options.token,
        "cache_dir": options.cache_dir,
        "local_files_only": options.local_files_only,
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
        "library_name": LIBRARY,
    }
    try:
        if where.file:
            return Path(hub.hf_hub_download(filename=where.file, **asked))
        folder = Path(hub.snapshot_download(allow_patterns=[WEIGHTS_FILE, CONFIG_FILE, PREPROCESSOR_FILE], **asked))
    except Exception as error:
        raise _sentence(hub, address, error) from None
    if missing := [name for name in (WEIGHTS_FILE, CONFIG_FILE) if not (folder / name).is_file()]:
        raise UserError(
            f"{address} is not a detector of {LIBRARY}: it has no {' and no '.join(missing)}. For a weight file in it, "
            f"give {SCHEME}{where.repo}/FILE."
        )
    return folder


def push_folder(folder: Path, repo: str, *, token: str | bool | None = None, private: bool | None = None) -> str:
    """Uploads the files of a saved detector as one commit; the repository is made if need be. Returns its address.

    Raises:
        UserError: `huggingface_hub` is not installed, or the Hub refuses.
    """
    where, hub = parse_address(repo), _package()
    if where.file:
        raise UserError(f"{repo} names a file in a repository: write ORGANISATION/NAME.")
    try:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name=LIBRARY)
        made = api.create_repo(where.repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=where.repo,
            folder_path=folder,
            revision=where.revision,
            allow_patterns=[WEIGHTS_FILE, CONFIG_FILE, PREPROCESSOR_FILE, CARD_FILE],
            commit_message=f"Detector saved by {LIBRARY}",
        )
    except Exception as error:
        raise _sentence(hub, repo, error) from None
    return str(made)


def _package() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            "The Hugging Face Hub needs a package that is not installed: pip install huggingface_hub."
        ) from None


def _sentence(hub: Any, address: str, error: Exception) -> UserError:
    errors = hub.errors
    hint = ""
    match error:
        case errors.GatedRepoError():
            hint = "its owner must grant access: ask for it on its page, and log in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            hint = "there is no such repository, or it is private: check the name, or log in with `hf auth login`"
        case errors.RevisionNotFoundError():
            hint = "there is no such revision: check the branch, tag or commit"
        case errors.LocalEntryNotFoundError():
            hint = "it was not downloaded before, and the Hub is not asked or cannot be reached"
        case errors.EntryNotFoundError():
            hint = "there is no such file"
        case errors.HFValidationError():
            hint = "its name is not allowed on the Hub"
        case errors.LocalTokenNotFoundError():
            hint = "log in first, with `hf auth login`"
        case _ if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            hint = "access was refused: log in with `hf auth login`, or give a token that has the right to do this"
        case _:
            hint = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return UserError(f"{address} cannot be reached on the Hugging Face Hub: {hint}.")
