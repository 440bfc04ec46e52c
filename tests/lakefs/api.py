"""lakeFS's own description of its API, where it is found: every request and every answer is held against it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_BESIDE = Path(__file__).resolve().parents[2].parent / "shared/lakefs/swagger.yml"


def description() -> Path | None:
    """The file, if it is there: named by LAKEFS_API, or beside the project."""
    named = os.environ.get("LAKEFS_API")
    if named:
        return Path(named)
    return _BESIDE if _BESIDE.is_file() else None


def violations(
    method: str,
    path: str,
    query: list[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
    status: int,
    answered: Mapping[str, str],
    answer: bytes,
) -> list[str]:
    """What in an exchange is not as the description says; nothing where there is no description."""
    api = _api()
    if api is None:
        return []
    from openapi_core.exceptions import OpenAPIError
    from openapi_core.testing import MockRequest, MockResponse
    from werkzeug.datastructures import MultiDict

    kind = headers.get("Content-Type", "application/json").partition(";")[0]
    # The description itself exempts the body of an upload.
    uploads = method == "POST" and path.endswith("/objects")
    request = MockRequest(
        "http://127.0.0.1",
        method.lower(),
        path,
        args=MultiDict(query),  # type: ignore[arg-type]
        headers=dict(headers),
        data=b"" if uploads else body,
        content_type=kind,
    )
    told = MockResponse(answer, status, dict(answered), answered.get("Content-Type", "").partition(";")[0])
    found = []
    for what, check in (
        ("request", lambda: api.validate_request(request)),
        ("answer", lambda: api.validate_response(request, told)),
    ):
        try:
            check()
        except OpenAPIError as error:
            found.append(f"{what} {method} {path} ({status}): {error!r} {error.__cause__ or ''}")
    return found


@lru_cache
def _api() -> Any:
    file = description()
    if file is None:
        return None
    import yaml
    from openapi_core import OpenAPI

    # Through JSON, because the keys of YAML's mappings of status codes are numbers.
    content = json.loads(json.dumps(yaml.safe_load(file.read_text(encoding="utf-8"))))
    objects = content["paths"]["/repositories/{repository}/refs/{ref}/objects"]
    for each in ("get", "head"):
        # It says `bytes=0-9`, which is what a request has; every server, and RFC 9110, answers `bytes 0-9/10`.
        del objects[each]["responses"]["206"]["headers"]["Content-Range"]["schema"]["pattern"]
    return OpenAPI.from_dict(content)
