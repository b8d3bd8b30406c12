"""A Hub on loopback, in memory, that speaks the real protocol to the real client: models, data sets, small and LFS files.

    with hub_server() as hub:
        hub.add("google-bert/bert-base-uncased", folder)      # what the Hub holds already
        hub.fail("POST", "/commit/", 503, times=1)            # the next commit is answered with 503
        ... HfApi(endpoint=hub.url, token="hf_me") ...

A token ``hf_NAME`` is the user NAME. Nobody may write below another's name.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

LFS_ENDINGS = (".safetensors", ".bin", ".parquet", ".arrow", ".png")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Commit:
    """A tree of files, and what it was called."""

    oid: str
    files: dict[str, bytes]
    title: str


@dataclass
class Repo:
    """A repository with one branch, main."""

    kind: str
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], title: str) -> Commit:
        oid = hashlib.sha1(f"{self.kind}{self.name}{len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(oid, files, title))
        return self.commits[-1]

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        if revision in ("main", "refs/heads/main"):
            return self.head
        return next((commit for commit in self.commits if commit.oid == revision), None)


@dataclass
class Failure:
    """How the next requests that match are answered."""

    method: str
    pattern: str
    status: int
    times: int


class Hub:
    """What the server holds, and what was asked of it."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.failures: list[Failure] = []
        self.log: list[str] = []
        self.url = ""

    def add(self, name: str, files: Path | dict[str, bytes], kind: str = "model", private: bool = False) -> Repo:
        """Put a repository there, from a folder or from file contents."""
        if isinstance(files, Path):
            files = {str(p.relative_to(files)): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self.repos[kind, name] = Repo(kind, name, private)
        repo.commit(files, "initial commit")
        return repo

    def fail(self, method: str, pattern: str, status: int, times: int = 1) -> None:
        """Answer the next matching requests with a status; status 0 cuts the connection."""
        self.failures.append(Failure(method, pattern, status, times))

    def failure(self, method: str, path: str) -> int | None:
        for each in self.failures:
            if each.times > 0 and each.method == method and re.search(each.pattern, path):
                each.times -= 1
                return each.status
        return None


def is_lfs(path: str) -> bool:
    """Whether a file goes through LFS."""
    return path.endswith(LFS_ENDINGS)


def blob_id(content: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query))
        path = unquote(parts.path)
        self.hub.log.append(f"{self.command} {path}")
        self.body = self.read_body()
        status = self.hub.failure(self.command, path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
        elif status is not None:
            self.error(status, "injected")
        else:
            self.route(path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    # --- answers ---------------------------------------------------------------------------------------------------------

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.answer({"error": message}, status, headers)

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token.removeprefix("hf_") if token.startswith("hf_") and token != "hf_unknown" else None

    def found(self, kind: str, name: str, write: bool = False) -> Repo | None:
        """The repository, or an answer that tells why not."""
        repo, user = self.hub.repos.get((kind, name)), self.user()
        if repo is None or (repo.private and user != name.split("/")[0]):
            self.error(404 if user else 401, "Repository not found", "RepoNotFound")
        elif write and user is None:
            self.error(401, "Invalid username or password.")
        elif write and user != name.split("/")[0]:
            self.error(403, "You don't have the rights to write here")
        else:
            return repo
        return None

    # --- routes ----------------------------------------------------------------------------------------------------------

    def route(self, path: str) -> None:
        routes: list[tuple[str, Callable[..., None]]] = [
            (r"/api/whoami-v2", self.whoami),
            (r"/api/validate-yaml", lambda: self.answer({"errors": [], "warnings": []})),
            (r"/api/repos/create", self.create),
            (r"/api/(model|dataset)s/([^/]+/[^/]+)/preupload/[^/]+", self.preupload),
            (r"/api/(model|dataset)s/([^/]+/[^/]+)/commit/[^/]+", self.commit),
            (r"/api/(model|dataset)s/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", self.tree),
            (r"/api/(model|dataset)s/([^/]+/[^/]+)/paths-info/([^/]+)", self.paths),
            (r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
            (r"/(?:(dataset)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.lfs_batch),
            (r"/(?:datasets/)?[^/]+/[^/]+/lfs/(\w{64})(/verify)?", self.lfs_object),
            (r"/(?:(dataset)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.file),
        ]
        for pattern, handle in routes:
            if match := re.fullmatch(pattern, path):
                handle(*match.groups())
                return
        self.error(404, f"no such route: {path}", "EntryNotFound")

    def whoami(self) -> None:
        if self.user() is None:
            self.error(401, "Invalid username or password.")
        else:
            access = {"type": "access_token", "accessToken": {"role": "write", "displayName": "test"}}
            self.answer({"type": "user", "name": self.user(), "orgs": [], "auth": access})

    def create(self) -> None:
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or self.user(), asked.get("type") or "model"
        name = f"{owner}/{asked['name']}"
        if self.user() is None:
            self.error(401, "Invalid username or password.")
        elif owner != self.user():
            self.error(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        else:
            exists = (kind, name) in self.hub.repos
            if not exists:
                private = bool(asked.get("private")) or asked.get("visibility") == "private"
                self.hub.add(name, {".gitattributes": b""}, kind, private)
            prefix = "datasets/" if kind == "dataset" else ""
            self.answer({"url": f"{self.hub.url}/{prefix}{name}", "id": name, "name": name}, 409 if exists else 200)

    def preupload(self, kind: str, name: str) -> None:
        if self.found(kind, name, write=True):
            asked = json.loads(self.body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if is_lfs(f["path"]) else "regular"} for f in asked]
            self.answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        if not self.found(kind or "model", name, write=True):
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            base = f"{self.hub.url}/{name}/lfs/{each['oid']}"
            actions = {"upload": {"href": base}, "verify": {"href": f"{base}/verify"}}
            objects.append({**each, **({} if each["oid"] in self.hub.objects else {"actions": actions})})
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_object(self, oid: str, verify: str | None) -> None:
        if verify:
            self.answer({} if oid in self.hub.objects else {"error": "missing"}, 200 if oid in self.hub.objects else 404)
        elif hashlib.sha256(self.body).hexdigest() != oid:
            self.error(400, "sha256 mismatch")
        else:
            self.hub.objects[oid] = self.body
            self.answer({})

    def commit(self, kind: str, name: str) -> None:
        repo = self.found(kind, name, write=True)
        if repo is None:
            return
        files, title = dict(repo.head.files), ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        made = repo.commit(files, title)
        url = f"{self.hub.url}/{name}/commit/{made.oid}"
        self.answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    def info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self.found(kind, name)
        if repo is None:
            return
        commit = repo.at(revision or "main")
        if commit is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        self.answer(
            {"_id": "0", "id": name, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": [],
             "lastModified": DATE, "createdAt": DATE, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        )

    def tree(self, kind: str, name: str, revision: str, below: str | None) -> None:
        repo = self.found(kind, name)
        commit = repo.at(revision) if repo else None
        if repo is None:
            return
        if commit is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return
        prefix = f"{below}/" if below else ""
        paths = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if below and not paths:
            self.error(404, f"{below} does not exist", "EntryNotFound")
            return
        deep = self.query.get("recursive", "").lower() in ("true", "1")
        rows = {}
        for path in paths:
            head, slash, _ = path.removeprefix(prefix).partition("/")
            if slash:
                rows.setdefault(prefix + head, {"type": "directory", "oid": blob_id(head.encode()), "size": 0, "path": prefix + head})
            if deep or not slash:
                rows[path] = entry_of(path, commit.files[path])
        self.answer(list(rows.values()))

    def paths(self, kind: str, name: str, revision: str) -> None:
        repo = self.found(kind, name)
        commit = repo.at(revision) if repo else None
        if commit is not None:
            asked = json.loads(self.body)["paths"] if self.body.startswith(b"{") else [v for k, v in parse_qsl(self.body.decode()) if k == "paths"]
            self.answer([entry_of(path, commit.files[path]) for path in asked if path in commit.files])

    def file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self.found(kind or "model", name)
        if repo is None:
            return
        commit = repo.at(revision)
        if commit is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        elif path not in commit.files:
            self.error(404, "Entry not found", "EntryNotFound")
        else:
            self.send_file(path, commit)

    def send_file(self, path: str, commit: Commit) -> None:
        content = commit.files[path]
        tag = hashlib.sha256(content).hexdigest() if is_lfs(path) else blob_id(content)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if is_lfs(path):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{tag}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(content, headers=headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.answer(content[start : end + 1], 206, headers)


def entry_of(path: str, content: bytes) -> dict[str, Any]:
    """A file as a listing shows it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if is_lfs(path):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Start a Hub on a free port, and stop it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
