"""Fixtures: a lakeFS, and a user of it. A real server where LAKEFS_ENDPOINT and its keys are set, else the stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lakefs.standin import KEY, SECRET, LakeFS
from tests.lakefs.user import User

_REAL = ("LAKEFS_ENDPOINT", "LAKEFS_ACCESS_KEY_ID", "LAKEFS_SECRET_ACCESS_KEY")


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """Somebody whose environment names the server."""
    real = [os.environ.get(name, "") for name in _REAL]
    if all(real):
        namespace = os.environ.get("LAKEFS_STORAGE_NAMESPACE", "")
        user = User(real[0].rstrip("/").removesuffix("/api/v1"), real[1], real[2], namespace, None)
        monkeypatch.setenv("LAKEFS_ENDPOINT", user.endpoint)
        try:
            yield user
        finally:
            user.leave()
        return
    with LakeFS().serve() as standin:
        user = User(standin.endpoint, KEY, SECRET, "", standin)
        for name, value in user.environ.items():
            monkeypatch.setenv(name, value)
        yield user
    assert not standin.violations


@pytest.fixture
def standin(user: User) -> LakeFS:
    """The stand-in, for what cannot be asked of a real server."""
    if user.standin is None:
        pytest.skip("needs the stand-in: a real server does not fail on demand")
    return user.standin
