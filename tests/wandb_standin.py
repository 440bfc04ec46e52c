"""As much of a W&B server as its own client asks for, to upload runs and to read them back: in memory, over HTTP.

It keeps what real clients sent and adds nothing: rows of history by the offset at which the client puts them, the
summary, and of a run what its last mutation said. A request that it does not know is answered with 400 and kept in
``unknown``.
"""

from __future__ import annotations

import base64
import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40
ENTITY = "team"


@dataclass
class StoredRun:
    """One run, as W&B's clients have sent it."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Variables of the mutations: displayName, config (JSON), tags, notes and so on."""
    history: list[str] = field(default_factory=list)
    summary: str = "{}"
    exits: list[int] = field(default_factory=list)
    """Exit code of each upload that said it was complete."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, read."""
        return [json.loads(line) for line in self.history]


class WandbStandIn:
    """A server on a free port of this machine. Use it as a context manager; ``stop`` and ``start`` take it away."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], StoredRun] = {}
        """By project and id."""
        self.unknown: list[str] = []
        self.cut_after: int | None = None
        """How many more uploads of rows are taken before the connection breaks, unanswered."""
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """For ``base_url`` or WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer, the second time on the same port."""
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                with standin._lock:
                    code, answer = standin._answer(self.path, self.headers.get("Authorization", ""), body)
                if code == 0:
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Answer no more; what was uploaded stays."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> WandbStandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, path: str, authorization: str, body: bytes) -> tuple[int, Any]:
        if authorization != "Basic " + base64.b64encode(f"api:{KEY}".encode()).decode():
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if path == "/graphql":
            asked = json.loads(body)
            return self._graphql(asked["query"], asked.get("variables") or {})
        match path.split("/"):
            case ["", "files", _, project, run, "file_stream"]:
                return self._stream(self.runs[project, run], json.loads(body))
        self.unknown.append(path)
        return 400, {}

    def _graphql(self, query: str, variables: dict[str, Any]) -> tuple[int, Any]:
        if "upsertBucket(" in query:
            return 200, {"data": {"upsertBucket": self._upsert(variables)}}
        if "createRunFiles(" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]
            created = {"runID": "UnVuOjE=", "uploadHeaders": [], "files": files}
            return 200, {"data": {"createRunFiles": created}}
        if "viewer {" in query:
            viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": "ada", "email": "", "flags": "{}"}
            return 200, {"data": {"viewer": viewer | {"teams": {"edges": []}}}}
        if "project(" in query and "run(" in query:
            run = self._find(variables)
            return 200, {"data": {"project": {"run": run and self._described(variables, run, query)}}}
        self.unknown.append(query)
        return 400, {"errors": [{"message": f"unknown: {query}"}]}

    def _find(self, variables: dict[str, Any]) -> StoredRun | None:
        if variables["entity"] != ENTITY:
            return None
        names = (variables[key] for key in ("name", "run", "runName") if key in variables)
        return self.runs.get((variables["project"], next(names)))

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        project, name = variables["project"], variables["name"]
        inserted = (project, name) not in self.runs
        run = self.runs.setdefault((project, name), StoredRun())
        run.facts |= {key: value for key, value in variables.items() if value is not None}
        bucket = {key: run.facts.get(key) for key in ("displayName", "description", "config")}
        entity = {"id": "RW50aXR5OjE=", "name": ENTITY}
        bucket |= {"id": "UnVuOjE=", "name": name, "sweepName": None, "historyLineCount": len(run.history)}
        bucket["project"] = {"id": "UHJvamVjdDox", "name": project, "entity": entity}
        return {"bucket": bucket, "inserted": inserted}

    def _stream(self, run: StoredRun, asked: dict[str, Any]) -> tuple[int, Any]:
        files = asked.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            run.history[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
            if self.cut_after is not None:
                self.cut_after -= 1
                if self.cut_after < 0:
                    return 0, None
        if "wandb-summary.json" in files:
            run.summary = files["wandb-summary.json"]["content"][-1]
        if asked.get("complete"):
            run.exits.append(asked["exitcode"])
        return 200, {}

    def _described(self, variables: dict[str, Any], run: StoredRun, query: str) -> dict[str, Any]:
        steps = [row["_step"] for row in run.rows]
        described = {
            "id": "UnVuOjE=", "projectId": "1", "name": variables.get("name"), "sweepName": None,
            "displayName": run.facts.get("displayName"), "tags": run.facts.get("tags") or [],
            "config": run.facts.get("config", "{}"),
            "state": "finished", "group": None, "jobType": None, "commit": None, "readOnly": False,
            "createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00", "description": None,
            "notes": run.facts.get("notes"), "systemMetrics": "{}", "summaryMetrics": run.summary,
            "historyLineCount": len(run.history), "user": {"name": "ada", "username": "ada"},
            "parquetHistory": {"parquetUrls": [], "liveData": [{"_step": step} for step in steps]},
            "historyKeys": {"lastStep": max(steps), "sets": [], "keys": {}} if steps else None,
        }  # fmt: skip
        if "history(" in query:
            low, high = int(variables["minStep"]), int(variables["maxStep"])
            described["history"] = [line for line in run.history if low <= json.loads(line)["_step"] < high]
        return described
