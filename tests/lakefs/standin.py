"""A server that answers as lakeFS does, over HTTP, for the tests of its client's user.

Two sockets: the API, and the object store that presigned addresses lead to. Pages are small, so that pagination
happens. Errors come on demand. What a client or this server says that is not in lakeFS's description of its API is
kept in ``violations``.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.lakefs.api import violations
from tests.lakefs.repositories import Object, Refused, Repository, in_order

PAGE = 4
KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes

    def asked(self, name: str, default: str = "") -> str:
        return dict(self.query).get(name, default)

    def wants(self, name: str) -> bool:
        """A flag, spelt in any way that Go understands: lakeFS's Python client writes ``True``."""
        return self.asked(name) in ("1", "t", "T", "TRUE", "true", "True")

    def json(self) -> dict[str, object]:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    breaks: bool = False
    """Whether the connection breaks in the middle of the body."""


@dataclass
class Failure:
    """The next ``times`` requests that match are answered with this."""

    method: str
    path: str
    times: int
    answer: Answer


class LakeFS:
    """The stand-in; ``with LakeFS().serve() as lake`` lets it be asked."""

    def __init__(self, *, presigns: bool = True) -> None:
        self.presigns = presigns
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.violations: list[str] = []
        self.requests: list[Request] = []
        """All of the API; those of the object store are in ``reads``."""
        self.reads: list[Request] = []
        self._failures: list[Failure] = []
        self._lock = threading.Lock()
        self._signing = b"stand-in"

    def fail(
        self,
        status: int,
        *,
        times: int = 1,
        method: str = "GET",
        path: str = "",
        message: str = "on demand",
        headers: Mapping[str, str] | None = None,
        breaks: bool = False,
    ) -> None:
        """Answer the next requests whose path matches so, instead of as they deserve."""
        answer = _error(status, message)
        answer = Answer(status, answer.body, {**answer.headers, **(headers or {})}, breaks)
        self._failures.append(Failure(method, path, times, answer))

    def lose(self, repository: str, ref: str, path: str) -> None:
        """Remove an object's bytes behind the server's back, as a garbage collection does."""
        del self.blobs[self.repositories[repository].tree_at(ref)[path].address]

    def overwrite(self, repository: str, ref: str, path: str, content: bytes) -> None:
        """Change an object's bytes behind the server's back."""
        self.blobs[self.repositories[repository].tree_at(ref)[path].address] = content

    @contextmanager
    def serve(self) -> Iterator[LakeFS]:
        servers = [_listen(self.answer), _listen(self.read)]
        threads = [threading.Thread(target=each.serve_forever, args=(0.05,)) for each in servers]
        for thread in threads:
            thread.start()
        self.endpoint, self._store = (f"http://127.0.0.1:{each.server_address[1]}" for each in servers)
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()

    # --- the API ----------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """One request of the API."""
        with self._lock:
            self.requests.append(request)
            answer = self._failure(request) or self._answered(request)
        if request.path.startswith("/api/v1/"):
            shown = b"" if request.method == "HEAD" else answer.body
            self.violations += violations(
                request.method,
                request.path,
                request.query,
                request.headers,
                request.body,
                answer.status,
                answer.headers,
                shown,
            )
        return answer

    def _failure(self, request: Request) -> Answer | None:
        for failure in self._failures:
            if failure.times and failure.method == request.method and re.search(failure.path, request.path):
                failure.times -= 1
                return failure.answer
        return None

    def _answered(self, request: Request) -> Answer:
        if not request.path.startswith("/api/v1/"):
            return Answer(200, b"<!doctype html><title>lakeFS</title>", {"Content-Type": "text/html; charset=utf-8"})
        expected = "Basic " + base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
        if not hmac.compare_digest(request.headers.get("Authorization", ""), expected):
            return _error(401, "error authenticating request")
        for method, pattern, work in _ROUTES:
            found = re.fullmatch(pattern, request.path.removeprefix("/api/v1"))
            if found and method == request.method:
                try:
                    return work(self, request, *map(unquote, found.groups()))
                except Refused as refused:
                    return _error(refused.status, str(refused))
        return _error(404, "invalid API endpoint")

    def _repository(self, name: str) -> Repository:
        if name not in self.repositories:
            raise Refused(404, "repository not found")
        return self.repositories[name]

    def get_config(self, request: Request) -> Answer:
        storage = {
            "blockstore_type": "mem",
            "blockstore_namespace_example": "mem://example",
            "blockstore_namespace_ValidityRegex": "^mem://",
            "default_namespace_prefix": "mem://",
            "pre_sign_support": self.presigns,
            "pre_sign_support_ui": False,
            "import_support": False,
            "import_validity_regex": "^mem://",
        }
        return _json(200, {"version_config": {"version": "1.60.0"}, "storage_config": storage})

    def create_repository(self, request: Request) -> Answer:
        wanted = request.json()
        name = str(wanted["name"])
        if name in self.repositories:
            raise Refused(409, "error creating repository: not unique")
        self.repositories[name] = made = Repository(
            name,
            str(wanted["storage_namespace"]),
            str(wanted.get("default_branch", "main")),
            bare=request.wants("bare"),
        )
        return _json(201, made.told())

    def get_repository(self, request: Request, name: str) -> Answer:
        return _json(200, self._repository(name).told())

    def delete_repository(self, request: Request, name: str) -> Answer:
        self._repository(name)
        del self.repositories[name]
        return Answer(204)

    def list_branches(self, request: Request, name: str) -> Answer:
        branches = self._repository(name).branches
        return _page(request, [(each, {"id": each, "commit_id": branches[each].commit}) for each in in_order(branches)])

    def create_branch(self, request: Request, name: str) -> Answer:
        wanted = request.json()
        commit = self._repository(name).add_branch(str(wanted["name"]), str(wanted["source"]))
        return Answer(201, commit.encode(), {"Content-Type": "text/html; charset=utf-8"})

    def get_branch(self, request: Request, name: str, branch: str) -> Answer:
        return _json(200, {"id": branch, "commit_id": self._repository(name).branch(branch).commit})

    def diff_branch(self, request: Request, name: str, branch: str) -> Answer:
        return _page(request, [(str(each["path"]), each) for each in self._repository(name).diff(branch)])

    def commit(self, request: Request, name: str, branch: str) -> Answer:
        wanted = request.json()
        metadata = wanted.get("metadata") or {}
        assert isinstance(metadata, dict)
        return _json(201, self._repository(name).commit(branch, str(wanted["message"]), "tester", metadata).told())

    def get_commit(self, request: Request, name: str, ref: str) -> Answer:
        return _json(200, self._repository(name).commit_at(ref).told())

    def list_tags(self, request: Request, name: str) -> Answer:
        tags = self._repository(name).tags
        return _page(request, [(each, {"id": each, "commit_id": tags[each]}) for each in in_order(tags)])

    def create_tag(self, request: Request, name: str) -> Answer:
        wanted = request.json()
        commit = self._repository(name).add_tag(str(wanted["id"]), str(wanted["ref"]))
        return _json(201, {"id": wanted["id"], "commit_id": commit})

    def get_tag(self, request: Request, name: str, tag: str) -> Answer:
        tags = self._repository(name).tags
        if tag not in tags:
            raise Refused(404, f"tag '{tag}': not found")
        return _json(200, {"id": tag, "commit_id": tags[tag]})

    def upload_object(self, request: Request, name: str, branch: str) -> Answer:
        repository, path = self._repository(name), request.asked("path")
        repository.branch(branch)
        if request.headers.get("If-None-Match") == "*" and path in repository.tree_at(branch):
            raise Refused(412, "path already exists")
        content, kind = _uploaded(request)
        meta = {
            k.lower().removeprefix("x-lakefs-meta-"): v
            for k, v in request.headers.items()
            if k.lower().startswith("x-lakefs-meta-")
        }
        made = repository.stage(branch, path, content, kind, meta)
        self.blobs[made.address] = content
        return _json(201, made.told())

    def delete_object(self, request: Request, name: str, branch: str) -> Answer:
        self._repository(name).remove(branch, request.asked("path"))
        return Answer(204)

    def stat_object(self, request: Request, name: str, ref: str) -> Answer:
        found = self._object(name, ref, request)
        return _json(200, found.told(self._address(request, found)))

    def list_objects(self, request: Request, name: str, ref: str) -> Answer:
        prefix, delimiter = request.asked("prefix"), request.asked("delimiter")
        found: dict[str, dict[str, object]] = {}
        for path, each in self._repository(name).tree_at(ref).items():
            if not path.startswith(prefix):
                continue
            below, mark, _ = path[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if mark:
                common = prefix + below + mark
                found[common] = {
                    "path": common,
                    "path_type": "common_prefix",
                    "checksum": "",
                    "physical_address": "",
                    "mtime": 0,
                }
            else:
                found[path] = each.told(self._address(request, each))
        return _page(request, [(path, found[path]) for path in in_order(found)])

    def get_object(self, request: Request, name: str, ref: str) -> Answer:
        found = self._object(name, ref, request)
        if request.wants("presign"):
            return Answer(302, headers={"Location": self._presigned(found.address)})
        if found.address not in self.blobs:
            raise Refused(410, "No data")
        return _ranged(request, self.blobs[found.address], found.checksum)

    def _object(self, name: str, ref: str, request: Request) -> Object:
        tree = self._repository(name).tree_at(ref)
        if request.asked("path") not in tree:
            raise Refused(404, "get entry: not found")
        return tree[request.asked("path")]

    # --- the object store -------------------------------------------------------------------------------------

    def _address(self, request: Request, found: Object) -> str:
        return self._presigned(found.address) if request.wants("presign") else found.address

    def _presigned(self, address: str) -> str:
        if not self.presigns:
            raise Refused(400, "operation not supported")
        expires = int(time.time()) + 900
        return f"{self._store}/{quote(address, safe='')}?expires={expires}&signature={self._sign(address, expires)}"

    def _sign(self, address: str, expires: int) -> str:
        return hmac.new(self._signing, f"{address} {expires}".encode(), "sha256").hexdigest()

    def read(self, request: Request) -> Answer:
        """One request of a presigned address, answered as S3 does."""
        self.reads.append(request)
        failure = self._failure(request)
        if failure:
            return failure
        if "Authorization" in request.headers:
            return Answer(400, b"<Error><Code>InvalidArgument</Code></Error>", {"Content-Type": "application/xml"})
        address, expires = unquote(request.path[1:]), int(request.asked("expires", "0"))
        if request.asked("signature") != self._sign(address, expires) or expires < time.time():
            return Answer(403, b"<Error><Code>AccessDenied</Code></Error>", {"Content-Type": "application/xml"})
        if address not in self.blobs:
            return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
        return _ranged(request, self.blobs[address], "etag")


_REPOSITORY = "/repositories/([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/config", LakeFS.get_config),
    ("POST", "/repositories", LakeFS.create_repository),
    ("GET", _REPOSITORY, LakeFS.get_repository),
    ("DELETE", _REPOSITORY, LakeFS.delete_repository),
    ("GET", f"{_REPOSITORY}/branches", LakeFS.list_branches),
    ("POST", f"{_REPOSITORY}/branches", LakeFS.create_branch),
    ("GET", f"{_REPOSITORY}/branches/([^/]+)", LakeFS.get_branch),
    ("GET", f"{_REPOSITORY}/branches/([^/]+)/diff", LakeFS.diff_branch),
    ("POST", f"{_REPOSITORY}/branches/([^/]+)/commits", LakeFS.commit),
    ("GET", f"{_REPOSITORY}/commits/([^/]+)", LakeFS.get_commit),
    ("GET", f"{_REPOSITORY}/tags", LakeFS.list_tags),
    ("POST", f"{_REPOSITORY}/tags", LakeFS.create_tag),
    ("GET", f"{_REPOSITORY}/tags/([^/]+)", LakeFS.get_tag),
    ("POST", f"{_REPOSITORY}/branches/([^/]+)/objects", LakeFS.upload_object),
    ("DELETE", f"{_REPOSITORY}/branches/([^/]+)/objects", LakeFS.delete_object),
    ("GET", f"{_REPOSITORY}/refs/([^/]+)/objects", LakeFS.get_object),
    ("HEAD", f"{_REPOSITORY}/refs/([^/]+)/objects", LakeFS.get_object),
    ("GET", f"{_REPOSITORY}/refs/([^/]+)/objects/stat", LakeFS.stat_object),
    ("GET", f"{_REPOSITORY}/refs/([^/]+)/objects/ls", LakeFS.list_objects),
]


def _json(status: int, content: object) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8"})


def _error(status: int, message: str) -> Answer:
    return Answer(429) if status == 429 else _json(status, {"message": message})  # its API gives a 429 no body


def _page(request: Request, items: Iterable[tuple[str, dict[str, object]]]) -> Answer:
    """The page that was asked for, never more than ``PAGE`` results."""
    amount = int(request.asked("amount", "100"))
    size = min(PAGE, amount) if amount >= 0 else PAGE
    after, prefix = request.asked("after"), request.asked("prefix")
    rest = [each for each in items if each[0].startswith(prefix) and (not after or each[0].encode() > after.encode())]
    shown = rest[:size]
    more = len(rest) > size
    pagination = {
        "has_more": more,
        "next_offset": shown[-1][0] if more else "",
        "results": len(shown),
        "max_per_page": PAGE,
    }
    return _json(200, {"pagination": pagination, "results": [each for _, each in shown]})


def _ranged(request: Request, content: bytes, etag: str) -> Answer:
    """All of the content, or the one range that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not asked:
        return Answer(200, content, headers)
    if asked[1]:
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    else:
        start, end = max(0, len(content) - int(asked[2])), len(content) - 1
    if start > end:
        return _error(416, "Requested Range Not Satisfiable")
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Answer(206, content[start : end + 1], headers)


def _uploaded(request: Request) -> tuple[bytes, str]:
    kind = request.headers.get("Content-Type", "application/octet-stream")
    if not kind.startswith("multipart/form-data"):
        return request.body, kind
    from werkzeug.formparser import parse_form_data

    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": kind,
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.input": BytesIO(request.body),
    }
    _, _, files = parse_form_data(environ)
    if list(files) != ["content"]:
        raise Refused(400, 'Only a single file per upload which must be named "content"')
    return files["content"].read(), files["content"].mimetype or "application/octet-stream"


def _listen(answer: Callable[[Request], Answer]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _one(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qsl(parts.query, keep_blank_values=True)
            headers = {name.title(): value for name, value in self.headers.items()}
            given = answer(Request(self.command, parts.path, query, headers, self._body()))
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            if given.status != 204:
                self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            if given.breaks:
                self.wfile.write(given.body[: len(given.body) // 2])
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(given.body)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _one  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = b""
            while size := int(self.rfile.readline().partition(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
