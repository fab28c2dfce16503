"""A Hugging Face Hub on loopback, for the real clients: repositories in memory, faults on request.

What the clients call, and what they want to hear, is taken from huggingface_hub's own source. Only
the standard library serves, so that a connection can be cut at any byte.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".parquet", ".safetensors", ".arrow", ".zst", ".gz", ".bin", ".gguf")
LARGE = 10 << 20  # what is larger goes to LFS, whatever its name
WRITE, READ = "hf_" + "write" * 7, "hf_" + "read" * 9  # tokens of the two users there are
PIECE = 64 << 10


@dataclass(frozen=True)
class Blob:
    """A file's bytes, as git or LFS keeps them."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_sha1(self) -> str:
        """What git calls it; of an LFS file its pointer."""
        raw = self.data
        if self.lfs:
            raw = f"version https://git-lfs\noid sha256:{self.sha256}\nsize {len(raw)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    sha: str
    parent: str | None
    title: str
    tree: dict[str, Blob]


class Repo:
    """A repository: its history, its names for commits, and the bytes that LFS has."""

    def __init__(self, kind: str, id: str, private: bool = False, gated: bool = False) -> None:
        self.kind, self.id, self.private, self.gated = kind, id, private, gated
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        attributes = Blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", False)
        self.commit("initial commit", {".gitattributes": attributes})

    @property
    def head(self) -> str:
        return self.branches["main"]

    def commit(
        self, title: str, tree: dict[str, Blob], branch: str = "main", parent: str | None = None
    ) -> str:
        """Put a commit on a branch."""
        parent = parent or self.branches.get(branch)
        listed = sorted((path, blob.git_sha1) for path, blob in tree.items())
        sha = hashlib.sha1(repr((parent, title, listed, len(self.commits))).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, dict(tree))
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> Commit | None:
        name = revision.removeprefix("refs/heads/")
        sha = self.branches.get(name) or self.tags.get(revision.removeprefix("refs/tags/"))
        return self.commits.get(sha or revision)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        commit = self.find(revision)
        assert commit is not None
        return {path: blob.data for path, blob in commit.tree.items()}


@dataclass
class Request:
    """What was asked, for tests to look at."""

    method: str
    path: str
    status: int = 0
    received: int = 0  # bytes of its body
    sent: int = 0  # bytes of the answer's body
    token: str | None = None


@dataclass
class Fault:
    """What goes wrong, ``times`` times after ``skip`` requests that match."""

    method: str
    path: re.Pattern[str]
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, theirs or ours; then the connection is gone
    delay: float = 0.0  # seconds, before the answer
    corrupt: bool = False  # a byte of the body that is sent is another
    lose_answer: bool = False  # it is done, and the answer never comes
    times: int = 1
    skip: int = 0


class LoopbackHub:
    """The server. A context manager; ``env`` is what a client's process has to be started with."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self._faults: list[Fault] = []

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def env(self, home: Path, token: str | None = WRITE) -> dict[str, str]:
        """The environment of a client, whose caches are in ``home``."""
        env = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(home / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PAUSEDATA_CACHE": str(home / "pausedata"),
        }
        return env | ({"HF_TOKEN": token} if token else {})

    def add(
        self,
        kind: str,
        id: str,
        files: Mapping[str, bytes | Path],
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Put files into a repository, in one commit, whose hash comes back."""
        with self.lock:
            repo = self.repos.setdefault((kind, id), Repo(kind, id, private, gated))
            read = {
                path: content if isinstance(content, bytes) else content.read_bytes()
                for path, content in files.items()
            }
            added = {path: Blob(data, is_lfs(path, len(data))) for path, data in read.items()}
            tree = repo.commits[repo.head].tree | added
            return repo.commit("files were added", tree)

    def repo(self, kind: str, id: str) -> Repo:
        return self.repos[kind, id]

    def fault(self, method: str, path: str, **what: Any) -> None:
        """Let something go wrong: see `Fault`."""
        with self.lock:
            self._faults.append(Fault(method, re.compile(path), **what))

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self.lock:
            self._faults.clear()

    def next_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.method == method and fault.path.search(path) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[Request]]:
        """The requests that the block makes; the list is filled when it ends."""
        start, seen = len(self.requests), list[Request]()
        yield seen
        seen += self.requests[start:]


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS) or size > LARGE


class _Answer(Exception):
    """An answer that ends the handling of a request."""

    def __init__(
        self, status: int, body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        self.status, self.headers = status, headers or {}
        self.body = body if isinstance(body, bytes) else json.dumps(body or {}).encode()


class _Cut(Exception):
    """The connection is to be cut."""


def _missing(what: str, status: int = 404) -> _Answer:
    return _Answer(status, {"error": what}, {"X-Error-Code": what, "X-Error-Message": what})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        # A revision may hold a slash, which comes quoted: it is taken apart before it is unquoted.
        self.parts = [unquote(part) for part in split.path.split("/")[1:]]
        path = unquote(split.path)
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.token = bearer or None
        self.record = Request(self.command, path, token=self.token)
        self.fault = self.hub.next_fault(self.command, path)
        try:
            body = self._body()
            if self.fault is not None:
                time.sleep(self.fault.delay)
                if self.fault.status is not None:
                    raise _Answer(self.fault.status, {"error": "asked for"}, self.fault.headers)
            with self.hub.lock:
                self._route(body)
        except _Answer as answer:
            if self.fault is not None and self.fault.lose_answer:
                self._cut()
            else:
                self._send(answer)
        except _Cut:
            self._cut()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.hub.requests.append(self.record)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        left = int(self.headers.get("Content-Length") or 0)
        pieces = []
        while left:
            want = min(left, PIECE)
            cut = self.fault.cut_after if self.fault and self.command in ("PUT", "POST") else None
            if cut is not None and self.record.received + want > cut:
                raise _Cut
            piece = self.rfile.read(want)
            if not piece:
                raise _Cut
            self.record.received += len(piece)
            left -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _send(self, answer: _Answer) -> None:
        body, status, headers = answer.body, answer.status, dict(answer.headers)
        if status == 200 and (wanted := self.headers.get("Range")) and self.command == "GET":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            end = int(wanted.partition("-")[2] or len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
            body, status = body[start : end + 1], 206
        if self.fault is not None and self.fault.corrupt and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.record.status = status
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.fault.cut_after if self.fault and self.command == "GET" else None
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            if cut is not None and self.record.sent + len(piece) > cut:
                self.wfile.write(piece[: cut - self.record.sent])
                self.record.sent = cut
                self._cut()
                return
            self.wfile.write(piece)
            self.record.sent += len(piece)

    # What is asked

    def _route(self, body: bytes) -> None:
        parts = self.parts
        if parts[0] == "api":
            if parts[1] == "whoami-v2":
                self._must_know()
                role = "write" if self.token == WRITE else "read"
                token = {"accessToken": {"role": role}}
                raise _Answer(200, {"type": "user", "name": "org", "orgs": [], "auth": token})
            if parts[1:] == ["repos", "create"]:
                self._create(json.loads(body))
            if parts[1] == "validate-yaml":
                raise _Answer(200, {"errors": [], "warnings": []})
            if parts[1] in ("datasets", "models"):
                self._api(self._repo(parts[1], f"{parts[2]}/{parts[3]}"), parts[4:], body)
        if parts[0] == "lfs":
            self._put_lfs(parts, body)
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if kind == "datasets" else parts
        if len(rest) > 2 and rest[1].endswith(".git"):
            self._batch(self._repo(kind, f"{rest[0]}/{rest[1][:-4]}"), json.loads(body))
        if len(rest) > 3 and rest[2] == "resolve":
            self._resolve(self._repo(kind, f"{rest[0]}/{rest[1]}"), rest[3], "/".join(rest[4:]))
        raise _Answer(404, {"error": f"no such address: {self.path}"})

    def _must_know(self) -> None:
        if self.token not in (READ, WRITE):
            raise _Answer(
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": "Invalid credentials in Authorization header"},
            )

    def _must_write(self) -> None:
        self._must_know()
        if self.token != WRITE:
            raise _Answer(403, {"error": "forbidden"}, {"X-Error-Message": "no write access"})

    def _repo(self, kind: str, id: str) -> Repo:
        if self.token is not None:
            self._must_know()
        repo = self.hub.repos.get((kind, id))
        if repo is None or (repo.private and self.token is None):
            raise _missing("RepoNotFound", 404 if self.token else 401)
        if repo.gated and not repo.private and self.parts[0] != "api" and self.token != WRITE:
            raise _missing("GatedRepo", 403)
        return repo

    def _create(self, asked: dict[str, Any]) -> None:
        self._must_write()
        kind = {"dataset": "datasets"}.get(asked.get("type", "model"), "models")
        id = f"{asked.get('organization') or 'org'}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{id}"
        if (kind, id) in self.hub.repos:
            raise _Answer(409, {"error": "You already created this repo", "url": url})
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[kind, id] = Repo(kind, id, bool(private))
        raise _Answer(200, {"url": url, "name": id, "id": id})

    def _api(self, repo: Repo, rest: list[str], body: bytes) -> None:
        what = rest[0] if rest else "revision"
        if what == "revision":
            self._info(repo, self._commit(repo, "/".join(rest[1:]) or "main"))
        if what == "refs":
            self._refs(repo)
        if what == "tree":
            self._tree(self._commit(repo, rest[1]), "/".join(rest[2:]))
        if what == "paths-info":
            asked = parse_qs(body.decode())
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else asked.get("paths", [])
            commit = self._commit(repo, rest[1])
            raise _Answer(200, [e for e in _entries(commit, "", True) if e["path"] in wanted])
        self._must_write()
        if what == "preupload":
            self._preupload(repo, self._commit(repo, rest[1]), json.loads(body))
        if what == "commit":
            self._make_commit(repo, rest[1], body)
        if what == "tag" and self.command == "DELETE":
            repo.tags.pop(rest[1], None)
            raise _Answer(200, {})
        if what == "tag":
            tag = json.loads(body)["tag"]
            if tag in repo.tags:
                raise _Answer(409, {"error": "the tag exists"})
            repo.tags[tag] = self._commit(repo, rest[1]).sha
            raise _Answer(200, {})

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.find(revision)
        if commit is None:
            raise _missing("RevisionNotFound")
        return commit

    def _info(self, repo: Repo, commit: Commit) -> None:
        raise _Answer(
            200,
            {
                "id": repo.id,
                "modelId": repo.id,
                "author": repo.id.partition("/")[0],
                "sha": commit.sha,
                "lastModified": "2026-11-24T00:00:00.000Z",
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in commit.tree],
            },
        )

    def _refs(self, repo: Repo) -> None:
        def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in names.items()
            ]

        branches = {n: sha for n, sha in repo.branches.items() if not n.startswith("refs/pr/")}
        raise _Answer(
            200,
            {
                "branches": listed(branches, "heads"),
                "converts": [],
                "tags": listed(repo.tags, "tags"),
            },
        )

    def _tree(self, commit: Commit, folder: str) -> None:
        entries = _entries(
            commit, folder, "true" in self.query.get("recursive", ["false"])[0].lower()
        )
        if folder and not entries:
            raise _missing("EntryNotFound")
        # In pages of 50, as the Hub's own, which are of a thousand.
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + 50 < len(entries):
            plain = re.sub(r"[?&]cursor=\d+", "", self.path)
            mark = "&" if "?" in plain else "?"
            address = f"{self.hub.url}{plain}{mark}cursor={start + 50}"
            headers["Link"] = f'<{address}>; rel="next"'
        raise _Answer(200, entries[start : start + 50], headers)

    def _preupload(self, repo: Repo, commit: Commit, asked: dict[str, Any]) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_lfs(file["path"], file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": commit.tree[file["path"]].git_sha1 if file["path"] in commit.tree else None,
            }
            for file in asked["files"]
        ]
        raise _Answer(200, {"files": files})

    def _batch(self, repo: Repo, asked: dict[str, Any]) -> None:
        self._must_write()
        objects = []
        for one in asked["objects"]:
            answer: dict[str, Any] = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in repo.lfs:
                address = f"{self.hub.url}/lfs/{repo.kind}/{repo.id}/{one['oid']}"
                verify = {"href": f"{address}/verify"}
                answer["actions"] = {"upload": {"href": address}, "verify": verify}
            objects.append(answer)
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def _put_lfs(self, parts: list[str], body: bytes) -> None:
        repo, oid = self.hub.repos[parts[1], f"{parts[2]}/{parts[3]}"], parts[4]
        if parts[-1] == "verify":
            raise _Answer(200 if oid in repo.lfs else 404, {})
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Answer(400, {"error": "the bytes are not those of the oid"})
        repo.lfs[oid] = body
        raise _Answer(200, {})

    def _make_commit(self, repo: Repo, revision: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        base = self._commit(repo, revision)
        pr = bool(self.query.get("create_pr"))
        parent = header.get("parentCommit")
        if parent is not None and parent != base.sha and not pr:
            raise _Answer(
                412, {"error": "A commit has happened since. Please refresh and try again."}
            )
        tree = dict(base.tree)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.lfs:
                    raise _Answer(400, {"error": f"LFS has no {value['oid']}"})
                tree[value["path"]] = Blob(repo.lfs[value["oid"]], True)
            elif line["key"] == "deletedFile" and tree.pop(value["path"], None) is None:
                raise _missing("EntryNotFound")
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        branch = f"refs/pr/{number}" if pr else revision
        sha = repo.commit(header["summary"], tree, branch, base.sha)
        page = f"{self.hub.url}/{'datasets/' if repo.kind == 'datasets' else ''}{repo.id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}"}
        if pr:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        raise _Answer(200, answer)

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        commit = self._commit(repo, revision)
        blob = commit.tree.get(path)
        if blob is None:
            raise _missing("EntryNotFound")
        tag = blob.sha256 if blob.lfs else blob.git_sha1
        headers = {
            "X-Repo-Commit": commit.sha,
            "ETag": f'"{tag}"',
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        if blob.lfs:
            headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-ETag": f'"{tag}"'}
        raise _Answer(200, blob.data, headers)


def _entries(commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.tree.items()):
        if folder and not path.startswith(f"{folder}/"):
            continue
        inside = path[len(folder) + 1 if folder else 0 :].split("/")
        for depth in range(1, len(inside)):
            name = "/".join([*([folder] if folder else []), *inside[:depth]])
            if recursive or depth == 1:
                oid = hashlib.sha1(name.encode()).hexdigest()
                entries[name] = {"type": "directory", "path": name, "oid": oid, "size": 0}
        if recursive or len(inside) == 1:
            entries[path] = {
                "type": "file", "path": path, "oid": blob.git_sha1, "size": len(blob.data),
            }  # fmt: skip
            if blob.lfs:
                entries[path]["lfs"] = {
                    "oid": blob.sha256, "size": len(blob.data), "pointerSize": 134,
                }  # fmt: skip
    return list(entries.values())
