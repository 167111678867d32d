"""Downloads a checkpoint from the Hugging Face Hub.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the login of `hf auth login` are those of huggingface_hub.
Files are stored below `$XDG_CACHE_HOME/lookout/hub` (`~/.cache`), one folder for each commit. A file is
written to NAME.part, so that an interrupted download continues there, and gets its name when its hash is
the one that the hub states.
"""

import hashlib
import os
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, constants, errors
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import build_hf_headers

from checkpoint import Refusal

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# The files of a checkpoint in the layout of transformers. The weights are of one kind only.
TEXTS = ["*.json", "*.jinja"]
WEIGHTS = ["model*.safetensors", "pytorch_model*.bin"]


def is_repository(text: str) -> bool:
    """Returns true for ORGANISATION/NAME, with or without @REVISION, that is not an existing path."""
    return REPOSITORY.fullmatch(text) is not None and not Path(text).exists()


def fetch(text: str) -> Path:
    """Downloads the checkpoint ORGANISATION/NAME[@REVISION] and returns its folder. Raises `Refusal`.

    Prints the licence and the size first. Files that were downloaded before are not requested again.
    """
    name, _, revision = text.partition("@")
    try:
        info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
        files = choose(info)
        folder = cache() / name / info.sha
        show(info, files, folder)
        for file in files:
            fetch_file(info, file, folder / file.rfilename)
    except errors.GatedRepoError:
        raise Refusal(
            f"{name} is gated: its owner wants you to accept conditions first. Open {constants.ENDPOINT}/{name}, accept "
            "them, make a token (Settings, Access Tokens), and run this again with HF_TOKEN=TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise Refusal(f"{name} has no revision {revision!r} on {constants.ENDPOINT}.") from None
    except errors.RepositoryNotFoundError:
        raise Refusal(
            f"{name}: no such folder here, and no such public repository on {constants.ENDPOINT}. "
            "A private one needs HF_TOKEN."
        ) from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, httpx2.HTTPError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Refusal(f"{name}: {constants.ENDPOINT} cannot be used: {why}. The same command continues.") from None
    return folder


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lookout" / "hub"


def choose(info: ModelInfo) -> list[RepoSibling]:
    """Returns the files of a repository's checkpoint, small ones first. Raises `Refusal` if it has none."""
    top = [file for file in info.siblings or [] if "/" not in file.rfilename]
    texts = [file for file in top if any(fnmatch(file.rfilename, pattern) for pattern in TEXTS)]
    for pattern in WEIGHTS:
        if weights := [file for file in top if fnmatch(file.rfilename, pattern)]:
            # An index belongs to one kind of weights.
            other = [f"{known.split('*')[0]}*.index.json" for known in WEIGHTS if known != pattern]
            texts = [file for file in texts if not any(fnmatch(file.rfilename, index) for index in other)]
            return sorted(texts + weights, key=lambda file: file.size or 0)
    raise Refusal(
        f"{info.id} has no weights in the layout of transformers (model*.safetensors or pytorch_model*.bin). "
        "A repository with ONNX files needs no export: `lookout fetch` takes it."
    )


def show(info: ModelInfo, files: list[RepoSibling], folder: Path) -> None:
    licence = (info.card_data and info.card_data.get("license")) or "not stated: read the model's card"
    missing = [file for file in files if not (folder / file.rfilename).exists()]
    size = sum(file.size or 0 for file in missing)
    print(f"{info.id} at {info.sha[:12]}, licence: {licence}")
    print(f"{len(missing)} of {len(files)} files to download, {size / 1e6:.1f} MB, to {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    if size > (free := shutil.disk_usage(folder).free):
        raise Refusal(f"{folder}: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free.")


def fetch_file(info: ModelInfo, file: RepoSibling, path: Path) -> None:
    """Downloads one file, or the rest of it, and checks its hash. Raises `Refusal` if the hash differs."""
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    url = huggingface_hub.hf_hub_url(info.id, file.rfilename, revision=info.sha)
    with part.open("ab") as to:
        if file.size is not None and to.tell() > file.size:
            to.seek(0)
            to.truncate()
        # The bar is for people; a log has the line above.
        bar = None if sys.stderr.isatty() else silent_bar()
        try:
            http_get(
                url, to, resume_size=to.tell(), headers=build_hf_headers(), expected_size=file.size,
                displayed_filename=file.rfilename, tqdm_class=bar,
            )  # fmt: skip
        except errors.EntryNotFoundError:
            raise Refusal(
                f"{info.id}: the hub lists {file.rfilename} but does not have it; only the owner can mend that."
            ) from None
    kind, wanted = stated_hash(file)
    if wanted is not None and (found := hash_of(part, kind)) != wanted:
        part.unlink()
        raise Refusal(
            f"{info.id}: {file.rfilename} is damaged: {kind} {wanted} wanted, {found} found. It is removed; run this again."
        )
    part.replace(path)


def silent_bar() -> type:
    from functools import partial

    from tqdm import tqdm

    return partial(tqdm, disable=True)


def stated_hash(file: RepoSibling) -> tuple[str, str | None]:
    """Returns the kind and the value of the hash that the hub states: SHA-256 of large files, git's of others."""
    return ("sha256", file.lfs.sha256) if file.lfs else ("git sha1", file.blob_id)


def hash_of(path: Path, kind: str) -> str:
    if kind == "git sha1":
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
