"""A Hub on loopback, in memory, that speaks the real protocol to the real client: models and data sets.

    with hub_server() as hub:
        hub.add("google-bert/bert-base-uncased", folder)      # what the Hub holds already
        hub.fail("POST", "/commit/", 503)                     # the next commit is answered with 503
        hub.fail("GET", "/tree/", 200, body=b"<html>")        # the next listing is a page
        ... HfApi(endpoint=hub.url, token="hf_me") ...
        hub.repos["model", "me/student"].head.files           # what was pushed

The token ``hf_NAME`` is the user NAME, but nobody is called "unknown". Each may write below the own name only, and sees
no private repository of another. A client in another process needs ``HF_ENDPOINT``, ``HF_TOKEN`` and
``HF_HUB_DISABLE_XET=1`` before it imports huggingface_hub.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".arrow", ".png")
"""Endings of the files that go through LFS."""

DATE = "2026-01-01T00:00:00.000Z"
RESET, LOST, CUT, HANG = 0, -1, -2, -3
"""Instead of a status: cut the connection before the request is done, or after it, or amid the answer; or be silent."""


def object_id(path: str, content: bytes) -> str:
    """What git, or LFS, calls a file."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    """All files at one moment."""

    oid: str
    title: str
    files: dict[str, bytes]
    authors: tuple[str, ...] = ()


@dataclass
class Repo:
    """A repository with one branch, main."""

    kind: str
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def commit(self, title: str, files: dict[str, bytes], author: str = "system") -> Commit:
        oid = hashlib.sha1(f"{self.kind} {self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits.append(Commit(oid, title, files, (author,)))
        return self.head

    def at(self, revision: str) -> Commit:
        if revision in ("main", "refs/heads/main"):
            return self.head
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Fault:
    """How the next requests that match are answered."""

    method: str
    pattern: str
    status: int
    times: int
    headers: dict[str, str]
    body: bytes | None


@dataclass
class Hub:
    """What the server holds, and what was asked of it."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, name: str, files: Path | dict[str, bytes], kind: str = "model", private: bool = False) -> Repo:
        """Put a repository there, from a folder or from contents by path."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self.repos[kind, name] = Repo(kind, name, private)
        repo.commit("initial commit", files)
        return repo

    def fail(
        self,
        method: str,
        pattern: str,
        status: int,
        times: int = 1,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer the next matching requests with a status, or with RESET, LOST, CUT or HANG."""
        self.faults.append(Fault(method, pattern, status, times, headers or {}, body))

    def fault(self, method: str, path: str) -> Fault | None:
        """What the next such request is to fail with, counted down."""
        for each in self.faults:
            if each.times > 0 and each.method == method and re.search(each.pattern, path):
                each.times -= 1
                return each
        return None


class Refused(Exception):
    """An answer that says no, in the Hub's words."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


class FirstBytes(io.BytesIO):
    """Passes on so many bytes, and forgets the rest."""

    def __init__(self, target: Any, count: int) -> None:
        super().__init__()
        self.target, self.left = target, count

    def write(self, content: Any) -> int:
        self.left -= self.target.write(content[: self.left]) if self.left else 0
        return len(content)


class Handler(BaseHTTPRequestHandler):
    """One request; the methods that ROUTES names answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Which keeps the body of each answer back for 40 ms.
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def handle_request(self) -> None:
        """Fail as planned, or find the route, and answer."""
        address = urlsplit(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        self.hub.log.append(f"{self.command} {path}")
        self.body = self.read_body()
        fault = self.hub.fault(self.command, path)
        if fault is not None and fault.status <= 0:
            self.close_connection = True
            if fault.status == HANG:
                self.hub.closing.wait(5)
            if fault.status == CUT:
                self.wfile = FirstBytes(self.wfile, 100)
            else:
                self.wfile = io.BytesIO()
            if fault.status in (RESET, HANG):
                return
        try:
            if fault is not None and fault.status > 0:
                if fault.body is not None:
                    return self.answer(fault.body, fault.status, fault.headers)
                raise Refused(fault.status, "injected", headers=fault.headers)
            self.dispatch(path)
        except Refused as no:
            headers = {"X-Error-Message": no.message, **no.headers} | ({"X-Error-Code": no.code} if no.code else {})
            self.answer({"error": no.message}, no.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def dispatch(self, path: str) -> None:
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return getattr(self, method)(*found.groups())
        raise Refused(404, f"no such page: {path}", "EntryNotFound")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks, and what for

    def visitor(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return token.removeprefix("hf_") if token.startswith("hf_") and token != "hf_unknown" else None

    def user(self) -> str:
        if visitor := self.visitor():
            return visitor
        raise Refused(401, "Invalid username or password.")

    def readable(self, kind: str | None, name: str) -> Repo:
        repo = self.hub.repos.get((kind or "model", name))
        if repo is None or (repo.private and self.visitor() != repo.owner):
            raise Refused(404 if self.visitor() else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str | None, name: str) -> Repo:
        repo = self.readable(kind, name)
        if self.user() != repo.owner:
            raise Refused(403, f"You don't have the rights to write to {name}")
        return repo

    # Users and repositories

    def whoami(self) -> None:
        access = {"type": "access_token", "accessToken": {"role": "write", "displayName": "test"}}
        self.answer({"type": "user", "name": self.user(), "orgs": [], "auth": access})

    def validate_yaml(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or self.user(), asked.get("type") or "model"
        if owner != self.user():
            raise Refused(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        name = f"{owner}/{asked['name']}"
        there = (kind, name) in self.hub.repos
        if not there:
            self.hub.add(name, {".gitattributes": b""}, kind, asked.get("visibility") == "private")
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        said = {"error": f"You already created this {kind} repo"} if there else {}
        self.answer({"url": url, "id": name, "name": name, **said}, 409 if there else 200)

    def info(self, kind: str, name: str, revision: str | None) -> None:
        repo = self.readable(kind, name)
        commit = repo.at(revision or "main")
        facts = {"_id": "0", "id": name, "sha": commit.oid, "private": repo.private, "tags": [], "downloads": 0}
        facts |= {"likes": 0, "gated": False, "disabled": False, "createdAt": DATE, "lastModified": DATE}
        self.answer({**facts, "siblings": [{"rfilename": path} for path in sorted(commit.files)]})

    def commits(self, kind: str, name: str, revision: str) -> None:
        repo = self.readable(kind, name)
        last = repo.commits.index(repo.at(revision))
        self.answer(
            [
                {
                    "id": each.oid,
                    "title": each.title,
                    "message": "",
                    "date": DATE,
                    "authors": [{"user": author} for author in each.authors],
                }
                for each in reversed(repo.commits[: last + 1])
            ]
        )

    def refs(self, kind: str, name: str) -> None:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.readable(kind, name).head.oid}
        self.answer({"branches": [main], "converts": [], "tags": []})

    # Upload: where the files go, the large ones, and the commit

    def preupload(self, kind: str, name: str) -> None:
        there = self.writable(kind, name).head.files
        answers = []
        for path in (each["path"] for each in json.loads(self.body)["files"]):
            known = {"oid": object_id(path, there[path])} if path in there else {}
            mode = "lfs" if path.endswith(LARGE) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        self.answer({"files": answers})

    def lfs_batch(self, kind: str | None, name: str) -> None:
        self.writable(kind, name)
        objects = json.loads(self.body)["objects"]
        for each in objects:
            if each["oid"] not in self.hub.large:
                href = f"{self.hub.url}/lfs/{each['oid']}"
                each["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content has another sha256")
        self.hub.large[oid] = self.body
        self.answer({})

    def lfs_verify(self, oid: str) -> None:
        if oid not in self.hub.large:
            raise Refused(404, "no such object")
        self.answer({})

    def commit(self, kind: str, name: str) -> None:
        repo = self.writable(kind, name)
        files, title = dict(repo.head.files), ""
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, self.body.splitlines())):
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repo.head.oid) != repo.head.oid:
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refused(400, f"the LFS pointer {value['oid']} points to nothing")
                files[value["path"]] = self.hub.large[value["oid"]]
            elif key == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = repo.commit(title, files, self.user()).oid
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})

    # Download: listings and files

    def tree(self, kind: str, name: str, revision: str, folder: str | None) -> None:
        files = self.readable(kind, name).at(revision).files
        prefix = f"{folder}/" if folder else ""
        below = {path: content for path, content in sorted(files.items()) if path.startswith(prefix)}
        if folder and not below:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in below if "/" in path[len(prefix) :]}
        entries = [{"type": "directory", "path": each, "size": 0, "oid": each} for each in sorted(folders)]
        entries += [entry(path, content) for path, content in below.items() if deep or "/" not in path[len(prefix) :]]
        self.answer(entries)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        files = self.readable(kind, name).at(revision).files
        asked = parse_qs(self.body.decode())["paths"]
        self.answer([entry(path, files[path]) for path in asked if path in files])

    def file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        commit = self.readable(kind, name).at(revision)
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content = commit.files[path]
        tag = f'"{object_id(path, content)}"'
        headers = {"ETag": tag, "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content))}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self.answer(content, 200, headers)
        start, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        self.answer(content[start : last + 1], 206, headers)


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as a listing shows it."""
    shown: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": object_id(path, content)}
    if path.endswith(LARGE):
        shown["lfs"] = {"oid": shown["oid"], "size": len(content), "pointerSize": 134}
    return shown


API = r"/api/(model|dataset)s/([^/]+/[^/]+)"
PAGE = r"/(?:(dataset)s/)?([^/]+/[^/]+)"
ROUTES = [
    (r"/api/whoami-v2", "whoami"),
    (r"/api/validate-yaml", "validate_yaml"),
    (r"/api/repos/create", "create"),
    (API + r"(?:/revision/([^/]+))?", "info"),
    (API + r"/refs", "refs"),
    (API + r"/commits/([^/]+)", "commits"),
    (API + r"/preupload/[^/]+", "preupload"),
    (API + r"/commit/[^/]+", "commit"),
    (API + r"/tree/([^/]+)(?:/(.+))?", "tree"),
    (API + r"/paths-info/([^/]+)", "paths_info"),
    (PAGE + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"/lfs/(\w{64})", "lfs_put"),
    (r"/lfs/(\w{64})/verify", "lfs_verify"),
    (PAGE + r"/resolve/([^/]+)/(.+)", "file"),
]


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
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
