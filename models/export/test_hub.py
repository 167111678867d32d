"""Tests of the download from the hub, against a server that speaks the hub's protocol.

python models/export/test_hub.py
"""

import contextlib
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

HERE = Path(__file__).resolve().parent
PLAIN = HERE.parent.parent / "tests/golden/e2e/plain"
TOKEN = "hf_aTokenOfTheTests"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """A repository of the hub, and what is wrong with it."""

    files: dict[str, bytes]
    licence: str | None = "apache-2.0"
    # True if only a client with the token may read it.
    gated: bool = False
    # Files that are listed and missing, or whose content differs from the listing.
    missing: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    # Number of bytes after which the connection is cut, once for each file.
    cut: dict[str, int] = field(default_factory=dict)
    # The requests for files: name and Range.
    requests: list[tuple[str, str | None]] = field(default_factory=list)


class Hub(http.server.BaseHTTPRequestHandler):
    repositories: ClassVar[dict[str, Repository]] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        listing = re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", self.path)
        content = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        found = listing or content
        repository = self.repositories.get(found[1]) if found else None
        if repository is None:
            self.refuse(404, "RepoNotFound")
        elif repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "GatedRepo")
        elif found[2] not in (None, "main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif listing:
            self.list(found[1], repository)
        elif content[3] in repository.missing:
            self.refuse(404, "EntryNotFound")
        else:
            self.send(repository, content[3])

    def list(self, name: str, repository: Repository) -> None:
        siblings = [listed(file, data) for file, data in repository.files.items()]
        card = {"license": repository.licence} if repository.licence else {}
        reply = {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": [], "private": False}
        self.reply(200, json.dumps(reply).encode())

    def send(self, repository: Repository, name: str) -> None:
        data, wanted = repository.files[name], self.headers.get("Range")
        repository.requests.append((name, wanted))
        if name in repository.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        end = repository.cut.pop(name, None)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first:end])
        if end is not None:
            self.close_connection = True

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def listed(name: str, data: bytes) -> dict:
    """A file as the hub lists it: weights are stored with Git LFS, by their SHA-256."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    listed = {"rfilename": name, "size": len(data), "blobId": git}
    if name.endswith((".safetensors", ".bin")):
        listed["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return listed


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
# huggingface_hub reads its settings when it is imported.
home = tempfile.mkdtemp(prefix="hub-")
os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": home, "HF_HUB_OFFLINE": "0"}
os.environ.pop("HF_TOKEN", None)

import hub
from checkpoint import Refusal


def checkpoint(shards: int = 0) -> dict[str, bytes]:
    """The files of a small checkpoint, with files beside it that no export needs."""
    import test_export

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(PLAIN, source)
        if shards:
            test_export.shard(source, shards)
        files = {file.name: file.read_bytes() for file in source.iterdir()}
    return files | {"README.md": b"# A model", "onnx/model.onnx": b"graph", "flax_model.msgpack": b"other weights"}


class Fetching(unittest.TestCase):
    def setUp(self):
        folder = Path(tempfile.mkdtemp(dir=home))
        self.addCleanup(os.environ.pop, "XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(folder)
        Hub.repositories.clear()

    def offer(self, repository: Repository) -> Repository:
        Hub.repositories["yard/llava"] = repository
        return repository

    def fetch(self, name: str = "yard/llava") -> tuple[Path, str]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            return hub.fetch(name), said.getvalue()

    def refused(self, *words: str, name: str = "yard/llava") -> None:
        with self.assertRaises(Refusal) as caught:
            self.fetch(name)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_a_sharded_checkpoint(self):
        offered = self.offer(Repository(checkpoint(shards=3)))
        folder, said = self.fetch()
        wanted = {name for name in offered.files if name.endswith((".json", ".jinja", ".safetensors"))}
        self.assertEqual({file.name for file in folder.iterdir()}, wanted)
        for name in wanted:
            self.assertEqual((folder / name).read_bytes(), offered.files[name], name)
        self.assertIn("licence: apache-2.0", said)
        self.assertIn(f"{len(wanted)} of {len(wanted)} files to download", said)
        offered.requests.clear()
        again, said = self.fetch("yard/llava@main")
        self.assertEqual((again, offered.requests), (folder, []))
        self.assertIn(f"0 of {len(wanted)} files", said)

    def test_a_connection_that_is_cut(self):
        offered = self.offer(Repository(checkpoint(), cut={"model.safetensors": 1000}))
        # What came of a chunk that is not complete is requested again.
        before, hub.constants.DOWNLOAD_CHUNK_SIZE = hub.constants.DOWNLOAD_CHUNK_SIZE, 500
        self.addCleanup(setattr, hub.constants, "DOWNLOAD_CHUNK_SIZE", before)
        folder, _ = self.fetch()
        self.assertEqual((folder / "model.safetensors").read_bytes(), offered.files["model.safetensors"])
        self.assertIn(("model.safetensors", "bytes=1000-"), offered.requests)

    def test_a_download_that_was_killed_continues(self):
        offered = self.offer(Repository(checkpoint()))
        folder = hub.cache() / "yard/llava" / COMMIT
        folder.mkdir(parents=True)
        (folder / "model.safetensors.part").write_bytes(offered.files["model.safetensors"][:5000])
        # Longer than the file: nothing of it is used.
        (folder / "config.json.part").write_bytes(b"x" * 1_000_000)
        self.fetch()
        self.assertIn(("model.safetensors", "bytes=5000-"), offered.requests)
        self.assertEqual((folder / "model.safetensors").read_bytes(), offered.files["model.safetensors"])
        self.assertEqual((folder / "config.json").read_bytes(), offered.files["config.json"])
        self.assertEqual(list(folder.glob("*.part")), [])

    def test_a_damaged_file_is_removed(self):
        for name, kind in (("model.safetensors", "sha256"), ("config.json", "git sha1")):
            offered = self.offer(Repository(checkpoint(), damaged={name}))
            self.refused(name, "damaged", kind, "run this again")
            offered.damaged.clear()
            folder, _ = self.fetch()
            self.assertEqual((folder / name).read_bytes(), offered.files[name])
            shutil.rmtree(folder)

    def test_a_file_that_is_listed_and_missing(self):
        self.offer(Repository(checkpoint(), missing={"tokenizer.json"}))
        self.refused("tokenizer.json", "does not have it")

    def test_a_gated_repository(self):
        self.offer(Repository(checkpoint(), gated=True, licence=None))
        self.refused("gated", "accept", "HF_TOKEN", "/yard/llava")
        os.environ["HF_TOKEN"] = TOKEN
        self.addCleanup(os.environ.pop, "HF_TOKEN")
        _, said = self.fetch()
        self.assertIn("licence: not stated", said)
        self.assertNotIn(TOKEN, said)

    def test_what_the_hub_does_not_have(self):
        self.refused("nobody/nothing", "no such folder here", name="nobody/nothing")
        self.offer(Repository(checkpoint()))
        self.refused("'v9'", "revision", name="yard/llava@v9")
        self.offer(Repository({"config.json": b"{}", "onnx/decoder_model_merged.onnx": b"graph"}))
        self.refused("no weights", "lookout fetch")

    def test_a_folder_is_not_a_repository(self):
        self.assertTrue(hub.is_repository("llava-hf/llava-1.5-7b-hf"))
        self.assertTrue(hub.is_repository("llava-hf/llava-1.5-7b-hf@refs/pr/3"))
        for path in ("./llava", "/models/llava", "llava", "models/export/tools/x", "a/../b", str(PLAIN)):
            self.assertFalse(hub.is_repository(path), path)

    def test_the_command_exports_what_it_downloads(self):
        self.offer(Repository(checkpoint(shards=2)))
        out = Path(os.environ["XDG_CACHE_HOME"]) / "package"
        command = [sys.executable, str(HERE / "export.py"), "yard/llava", str(out), "--precision", "fp32"]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue((out / "onnx/decoder_model_merged.onnx").is_file())
        done = subprocess.run([*command[:2], "nobody/nothing", str(out)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("no such public repository", done.stderr)


if __name__ == "__main__":
    try:
        unittest.main()
    finally:
        shutil.rmtree(home)
