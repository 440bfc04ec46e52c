"""As much of a Neptune server as its own client asks for, to be sent runs and to read them back: in memory, over HTTP.

It describes its API to the client as Neptune's server did: with the operations, parameters and models that neptune
1.14 calls. It keeps what real clients sent, and refuses what Neptune's server was known to refuse: a wrong key, steps
that do not rise, times that go back, a value of another type, whole numbers beyond 32 bits. A request that it does not
know is answered with 400 and kept in ``unknown``.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import jwt

KEY = "b" * 36
PROJECT = "team/kit"
REALM = "/auth/realms/neptune"
_SECRET = "of the realm, and of nobody else who reads this"

_TYPES = {"assignFloat": "float", "assignInt": "int", "assignBool": "bool", "assignString": "string"}
_SERIES = {"logFloats": "floatSeries", "logStrings": "stringSeries"}
_KEPT = ("sys/name", "sys/failed", "sys/tags", "sys/description")
"""What of its own Neptune lets others write."""

_NAMED = ("attributeName", "attributeType")
_MODELS: Mapping[str, Sequence[str]] = {
    "ClientConfig": ("apiUrl", "applicationUrl", "pyLibVersions:Versions", "artifacts:Artifacts"),
    "Versions": ("minRecommendedVersion", "minCompatibleVersion", "maxCompatibleVersion"),
    "Artifacts": ("enabled:boolean",),
    "Tokens": ("accessToken", "refreshToken", "username"),
    "Project": ("id", "name", "organizationName", "projectKey", "version:integer"),
    "Projects": ("entries:[Project]",),
    "Organization": ("id", "name"),
    "Experiment": ("id", "shortId", "type", "organizationName", "projectName", "trashed:boolean"),
    "ExperimentCreationParams": ("projectIdentifier", "parentId", "type", "cliVersion", "customId"),
    "Operation": ("path",),
    "OperationError": ("errorDescription", "errorType"),
    "Attributes": ("attributes:[Attribute]",),
    "Attribute": (
        "name", "type", "floatProperties:Float", "intProperties:Int", "boolProperties:Bool", "stringProperties:String",
        "stringSetProperties:StringSet", "floatSeriesProperties:FloatSeries", "stringSeriesProperties:StringSeries",
    ),
    "Float": (*_NAMED, "value:number"),
    "Int": (*_NAMED, "value:integer"),
    "Bool": (*_NAMED, "value:boolean"),
    "String": (*_NAMED, "value"),
    "StringSet": (*_NAMED, "values:[string]"),
    "FloatSeries": (*_NAMED, "last:number", "lastStep:number"),
    "StringSeries": (*_NAMED, "last", "lastStep:number"),
    "FloatPoints": ("totalItemCount:integer", "values:[FloatPoint]"),
    "StringPoints": ("totalItemCount:integer", "values:[StringPoint]"),
    "FloatPoint": ("step:number", "timestampMillis:integer", "value:number"),
    "StringPoint": ("step:number", "timestampMillis:integer", "value"),
    "Entries": ("matchingItemCount:integer",),
    "Search": ("query:object",),
}  # fmt: skip
"""Properties of each model; without a type they are texts."""
_ATTRIBUTE = ("experimentId", "attribute")
_PAGE = (*_ATTRIBUTE, "limit:integer", "offset:integer")
_Operations = Mapping[str, tuple[str, Sequence[str], str]]
_BACKEND: _Operations = {
    "getClientConfig": ("get clients/config", ("X-Neptune-Api-Token", "alpha"), "ClientConfig"),
    "exchangeApiToken": ("get authorization/oauth-token", ("X-Neptune-Api-Token",), "Tokens"),
    "getProject": ("get projects/get", ("projectIdentifier",), "Project"),
    "listProjects": (
        "get projects",
        ("organizationIdentifier", "searchTerm", "limit:integer", "sortBy", "sortDirection", "userRelation"),
        "Projects",
    ),
    "listOrganizations": ("get myOrganizations", (), "[Organization]"),
}
_LEADERBOARD: _Operations = {
    "createExperiment": (
        "post experiments",
        ("X-Neptune-CliVersion", "experimentCreationParams:ExperimentCreationParams"),
        "Experiment",
    ),
    "getExperiment": ("get experiments", ("experimentId",), "Experiment"),
    "getExperimentAttributes": ("get attributes", ("experimentId",), "Attributes"),
    "executeOperations": ("post attributes/operations", ("experimentId", "operations:[Operation]"), "[OperationError]"),
    "getStringAttribute": ("get attributes/strings", _ATTRIBUTE, "String"),
    "getFloatAttribute": ("get attributes/floats", _ATTRIBUTE, "Float"),
    "getFloatSeriesValues": ("get attributes/series/float", _PAGE, "FloatPoints"),
    "getStringSeriesValues": ("get attributes/series/string", _PAGE, "StringPoints"),
    "searchLeaderboardEntries": (
        "post leaderboard/entries/search",
        ("projectIdentifier", "type:[string]", "params:Search"),
        "Entries",
    ),
}
"""Of each operation where it is, what it takes and what it answers."""
_APIS = {"backend": _BACKEND, "leaderboard": _LEADERBOARD}


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, kind: str = "", title: str = "") -> None:
        self.status = status
        self.body = {"code": status, "errorType": kind, "title": title}


@dataclass
class StoredRun:
    """One run, as clients have sent it."""

    id: str
    short: str
    custom: str | None
    fields: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """By path: its type, and a value; of a series its points: step, milliseconds, value."""

    def series(self, path: str) -> list[tuple[float, int, Any]]:
        """The points of a series."""
        points: list[tuple[float, int, Any]] = self.fields[path][1]
        return points


class NeptuneStandIn:
    """A server on a free port of this machine. Use it as a context manager; ``stop`` and ``start`` take it away."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        """By the custom id, or its own where it has none."""
        self.unknown: list[str] = []
        self.refused: list[str] = []
        """What of the operations was refused."""
        self.asked: list[str] = []
        """The operation of the API that each request was for."""
        self.lose: int | None = None
        """How many more requests with operations are answered before one is carried out and not answered."""
        self.lost_values: int | None = None
        """How many values of that one are taken; None: all."""
        self.failing: list[int] = []
        """Statuses that the next requests are answered with."""
        self.lasts_s = 300.0
        """How long a login lasts."""
        self.api_url = self.login_url = ""
        """Where it says that its API and its login are; empty: here."""
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """For ``endpoint``."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def key(self) -> str:
        """For NEPTUNE_API_TOKEN."""
        return key_for(self.url)

    def start(self) -> None:
        """Answer, the second time on the same port."""
        standin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._do("get")

            def do_POST(self) -> None:
                self._do("post")

            def _do(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                try:
                    with standin._lock:
                        status, answer = 200, standin._answer(method, self.path, self.headers, body)
                except Refused as refused:
                    status, answer = refused.status, refused.body
                except ConnectionAbortedError:
                    self.close_connection = True
                    return
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more; what was sent stays."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> NeptuneStandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, method: str, target: str, headers: Any, body: bytes) -> Any:
        url = urlsplit(target)
        asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if self.failing:
            raise Refused(self.failing.pop(0))
        match url.path.removeprefix("/api/").split("/", 2):
            case [api, "swagger.json"] if api in _APIS:
                return _described(api, self._port)
            case [api, "v1", rest]:
                for operation, (place, _, _) in _APIS.get(api, {}).items():
                    if place == f"{method} {rest}":
                        self.asked.append(operation)
                        self._admit(operation, headers)
                        return getattr(self, re.sub("[A-Z]|^", r"_\g<0>", operation).lower())(asked, _read(body))
        if (method, url.path) == ("post", f"{REALM}/protocol/openid-connect/token"):
            return self._renewed(parse_qs(body.decode()))
        self.unknown.append(f"{method} {target}")
        raise Refused(400)

    # --- who asks -----------------------------------------------------------------------------------------------

    def _admit(self, operation: str, headers: Any) -> None:
        if operation in ("getClientConfig", "exchangeApiToken"):
            if headers.get("X-Neptune-Api-Token") != self.key:
                raise Refused(401)
            return
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self._tokens:
            raise Refused(401)
        if jwt.decode(token, options={"verify_signature": False, "verify_exp": False})["exp"] < time.time():
            raise Refused(401, "AUTHORIZATION_TOKEN_EXPIRED")

    def _token(self) -> str:
        issued = {"iss": (self.login_url or self.url) + REALM, "azp": "neptune-cli", "jti": str(uuid4())}
        token = jwt.encode(issued | {"exp": time.time() + self.lasts_s}, _SECRET, algorithm="HS256")
        self._tokens.add(token)
        return token

    def _renewed(self, asked: Mapping[str, Sequence[str]]) -> Any:
        self.asked.append("refresh")
        if asked["refresh_token"][0] not in self._tokens:
            raise Refused(400)
        answer = {"access_token": self._token(), "refresh_token": self._token(), "token_type": "Bearer"}
        return answer | {"expires_in": self.lasts_s}

    def _get_client_config(self, asked: Mapping[str, str], _: Any) -> Any:
        here = self.api_url or self.url
        versions = {"minRecommendedVersion": "1.10.0", "minCompatibleVersion": "1.0.0", "maxCompatibleVersion": "2.0.0"}
        return {
            "apiUrl": here,
            "applicationUrl": here,
            "pyLibVersions": versions,
            "artifacts": {"enabled": False},
        }

    def _exchange_api_token(self, asked: Mapping[str, str], _: Any) -> Any:
        return {"accessToken": self._token(), "refreshToken": self._token(), "username": "ada"}

    # --- projects and runs --------------------------------------------------------------------------------------

    def _get_project(self, asked: Mapping[str, str], _: Any) -> Any:
        if asked["projectIdentifier"] != PROJECT:
            raise Refused(404)
        return _project()

    def _list_projects(self, asked: Mapping[str, str], _: Any) -> Any:
        return {"entries": [_project()]}

    def _list_organizations(self, asked: Mapping[str, str], _: Any) -> Any:
        return [{"id": "o-1", "name": PROJECT.split("/")[0]}]

    def _create_experiment(self, asked: Mapping[str, str], body: Any) -> Any:
        if body["projectIdentifier"] != _project()["id"]:
            raise Refused(404)
        custom = body.get("customId")
        if custom not in self.runs:
            run = StoredRun(str(uuid4()), f"KIT-{len(self.runs) + 1}", custom)
            run.fields["sys/id"] = ("string", run.short)
            run.fields["sys/tags"] = ("stringSet", [])
            run.fields["sys/trashed"] = ("bool", False)
            if custom:
                run.fields["sys/custom_run_id"] = ("string", custom)
            self.runs[custom or run.id] = run
            return _experiment(run)
        return _experiment(self.runs[custom])

    def _get_experiment(self, asked: Mapping[str, str], _: Any) -> Any:
        return _experiment(self._run(asked))

    def _search_leaderboard_entries(self, asked: Mapping[str, str], body: Any) -> Any:
        query = re.fullmatch(r'\(`sys/custom_run_id`:string = "([^"]*)"\)', body["query"]["query"])
        assert query, body
        found = [run for run in self.runs.values() if run.custom == query[1]]
        page = found[body["pagination"]["offset"] :][: body["pagination"]["limit"]]
        entries = [{"experimentId": run.id, "attributes": [_attribute("sys/id", "string", run.short)]} for run in page]
        return {"matchingItemCount": len(found), "entries": entries}

    def _run(self, asked: Mapping[str, str]) -> StoredRun:
        wanted = asked["experimentId"].split("/")[-1]
        for run in self.runs.values():
            if wanted in (run.id, run.short):
                return run
        raise Refused(404, "EXPERIMENT_NOT_FOUND")

    # --- fields and series --------------------------------------------------------------------------------------

    def _get_experiment_attributes(self, asked: Mapping[str, str], _: Any) -> Any:
        return {"attributes": [_attribute(name, *each) for name, each in self._run(asked).fields.items()]}

    def _get_string_attribute(self, asked: Mapping[str, str], _: Any) -> Any:
        kind, value = self._run(asked).fields.get(asked["attribute"], ("", None))
        if kind not in ("string", "float"):
            raise Refused(404)
        return {"attributeName": asked["attribute"], "attributeType": kind, "value": value}

    _get_float_attribute = _get_string_attribute

    def _get_float_series_values(self, asked: Mapping[str, str], _: Any) -> Any:
        points = self._run(asked).series(asked["attribute"])
        page = points[int(asked["offset"]) :][: min(int(asked["limit"]), 1000)]
        told = [{"step": step, "timestampMillis": at, "value": value} for step, at, value in page]
        return {"totalItemCount": len(points), "values": told}

    _get_string_series_values = _get_float_series_values

    def _execute_operations(self, asked: Mapping[str, str], operations: Any) -> Any:
        run = self._run(asked)
        for each in operations:
            number = each.get("assignInt", {}).get("value", 0)
            if not -(2**31) <= number < 2**31:
                raise Refused(400, "MALFORMED_JSON_REQUEST", f"Numeric value ({number}) out of range of int")
        losing = self.lose == 0
        if self.lose is not None:
            self.lose = None if losing else self.lose - 1
        left = [len(json.dumps(operations))] if not losing or self.lost_values is None else [self.lost_values]
        errors = [error for each in operations for error in _carried_out(run, each, left)]
        self.refused += errors
        if losing:
            raise ConnectionAbortedError
        return [{"errorType": "metadata_inconsistency", "errorDescription": error} for error in errors]


def key_for(url: str) -> str:
    """What NEPTUNE_API_TOKEN would be for the server at that URL."""
    return base64.b64encode(json.dumps({"api_address": url, "api_url": url, "api_key": KEY}).encode()).decode()


def _carried_out(run: StoredRun, operation: Mapping[str, Any], left: list[int]) -> Iterator[str]:
    """What is refused of an operation; no more values are taken than are ``left``."""
    path = operation["path"]
    (kind, what), *more = [(key, value) for key, value in operation.items() if key != "path"]
    assert not more, operation
    if path.startswith("sys/") and path not in _KEPT:
        yield f"{path} is read-only"
    elif kind in _SERIES:
        yield from _logged(run, path, _SERIES[kind], what["entries"], left)
    elif left[0] > 0:
        left[0] -= 1
        yield from _changed(run, path, kind, what)


def _changed(run: StoredRun, path: str, kind: str, what: Mapping[str, Any]) -> Iterator[str]:
    if kind == "deleteAttribute":
        if run.fields.pop(path, None) is None:
            yield f"Cannot delete attribute {path}: there is none"
    elif kind == "insertStrings":
        kept, values = run.fields.setdefault(path, ("stringSet", []))
        if kept != "stringSet":
            yield f"Cannot insert into {path}: it is a {kept}"
            return
        values += [each for each in what["values"] if each not in values]
    elif run.fields.get(path, (_TYPES[kind],))[0] != _TYPES[kind]:
        yield f"Cannot assign to {path}: it is a {run.fields[path][0]}"
    else:
        run.fields[path] = (_TYPES[kind], what["value"])


def _logged(run: StoredRun, path: str, kind: str, entries: Sequence[Any], left: list[int]) -> Iterator[str]:
    if run.fields.setdefault(path, (kind, []))[0] != kind:
        yield f"Cannot log to {path}: it is a {run.fields[path][0]}"
        return
    points = run.series(path)
    for each in entries:
        step, at = each["step"], each["timestampMilliseconds"]
        if left[0] <= 0:
            return
        left[0] -= 1
        if points and step <= points[-1][0]:
            yield f"X-coordinates (step) must be strictly increasing for series attribute: {path}. Invalid: {step}"
        elif points and at < points[-1][1]:
            yield f"Timestamp must be non-decreasing for series attribute: {path}. Invalid: {at}"
        else:
            points.append((step, at, each["value"]))


def _attribute(name: str, kind: str, value: Any) -> Any:
    told: dict[str, Any] = {"attributeName": name, "attributeType": kind}
    if kind.endswith("Series"):
        told |= {"last": value[-1][2], "lastStep": value[-1][0]} if value else {}
    else:
        told["values" if kind == "stringSet" else "value"] = value
    return {"name": name, "type": kind, f"{kind}Properties": told}


def _experiment(run: StoredRun) -> Any:
    workspace, name = PROJECT.split("/")
    told = {"id": run.id, "shortId": run.short, "type": "run", "trashed": run.fields["sys/trashed"][1]}
    return told | {"organizationName": workspace, "projectName": name}


def _project() -> Any:
    workspace, name = PROJECT.split("/")
    return {"id": "p-1", "name": name, "organizationName": workspace, "projectKey": "KIT", "version": 2}


def _read(body: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise Refused(400, "MALFORMED_JSON_REQUEST", constant)

    return json.loads(body, parse_constant=refuse) if body else None


# --- the description of the API ---------------------------------------------------------------------------------


def _described(api: str, port: int) -> Any:
    paths: dict[str, Any] = {}
    for name, (place, parameters, answer) in _APIS[api].items():
        method, path = place.split()
        paths.setdefault(f"/api/{api}/v1/{path}", {})[method] = {
            "operationId": name,
            "parameters": [_parameter(each) for each in parameters],
            "responses": {"200": {"description": "OK", "schema": _schema(answer)}},
        }
    models = {
        name: {"type": "object", "title": name, "properties": dict(map(_property, properties))}
        for name, properties in _MODELS.items()
    }
    about = {"title": f"Neptune {api} API", "version": "1"}
    return {
        "swagger": "2.0", "info": about, "host": f"127.0.0.1:{port}", "basePath": "/", "consumes": ["application/json"],
        "produces": ["application/json"], "paths": paths, "definitions": models,
    }  # fmt: skip


def _parameter(told: str) -> Any:
    name, _, kind = told.partition(":")
    if kind.strip("[]") in _MODELS:
        return {"name": name, "in": "body", "required": True, "schema": _schema(kind)}
    place = "header" if name.startswith("X-") else "query"
    many = {"collectionFormat": "multi"} if kind.startswith("[") else {}
    return {"name": name, "in": place, "required": False, **_schema(kind), **many}


def _property(told: str) -> tuple[str, Any]:
    name, _, kind = told.partition(":")
    return name, _schema(kind)


def _schema(kind: str) -> Any:
    if kind.startswith("["):
        return {"type": "array", "items": _schema(kind[1:-1])}
    return {"$ref": f"#/definitions/{kind}"} if kind in _MODELS else {"type": kind or "string"}
