"""Somebody who works with lakeFS, through its API: at the stand-in, or at a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import urllib3
from lakefs_sdk import Configuration
from lakefs_sdk.client import LakeFSClient
from lakefs_sdk.exceptions import NotFoundException
from lakefs_sdk.models import BranchCreation, CommitCreation, RepositoryCreation, TagCreation

from tests.lakefs.standin import LakeFS


@dataclass
class User:
    endpoint: str
    key: str
    secret: str
    namespace: str
    """Below which repositories keep their objects; empty for where the server would put them."""
    standin: LakeFS | None
    """None at a real server."""

    def __post_init__(self) -> None:
        self.client = LakeFSClient(Configuration(host=self.endpoint, username=self.key, password=self.secret))
        self.http = urllib3.PoolManager()
        self._made: list[str] = []

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LAKEFS_ENDPOINT": self.endpoint,
            "LAKEFS_ACCESS_KEY_ID": self.key,
            "LAKEFS_SECRET_ACCESS_KEY": self.secret,
        }

    def repository(self, *, bare: bool = False) -> Repo:
        name = f"ledger-{uuid4().hex[:12]}"
        namespace = self.namespace or self._usual_namespace()
        place = f"{namespace}{'' if namespace.endswith('/') else '/'}{name}"
        wanted = RepositoryCreation(name=name, storage_namespace=place)
        self.client.repositories_api.create_repository(wanted, bare=bare)
        self._made.append(name)
        return Repo(self, name)

    def leave(self) -> None:
        """Remove what was made, so that a real server is left as it was."""
        with ExitStack() as stack:  # one that cannot be removed keeps none of the others
            for name in self._made:
                stack.callback(self.client.repositories_api.delete_repository, name, force=True)

    def delete(self, repo: Repo) -> None:
        """Remove a repository, and wait until the server has forgotten it: lakeFS remembers each for some seconds."""
        self.client.repositories_api.delete_repository(repo.name, force=True)
        self._made.remove(repo.name)
        deadline = time.monotonic() + 60
        while self._has(repo.name):
            assert time.monotonic() < deadline, f"{repo.name} is still there"
            time.sleep(0.2)

    def _has(self, name: str) -> bool:
        try:
            self.client.repositories_api.get_repository(name)
        except NotFoundException:
            return False
        return True

    def _usual_namespace(self) -> str:
        storage = self.client.config_api.get_config().storage_config
        assert storage is not None, "set LAKEFS_STORAGE_NAMESPACE: this server has no one storage of its own"
        return storage.default_namespace_prefix or f"{storage.blockstore_type}://"


@dataclass
class Repo:
    """A repository of the user's."""

    user: User
    name: str

    def upload(self, path: str, content: bytes, branch: str = "main") -> None:
        """Send an object in pieces, without saying how long it is, as lakeFS's own high-level client does."""
        address = f"{self.user.endpoint}/api/v1/repositories/{self.name}/branches/{branch}/objects"
        done = self.user.http.request(
            "POST",
            f"{address}?{urlencode({'path': path})}",
            body=_pieces(content),
            chunked=True,
            headers=urllib3.make_headers(basic_auth=f"{self.user.key}:{self.user.secret}")
            | {"Content-Type": "application/octet-stream", "x-lakefs-meta-origin": "test"},
        )
        assert done.status == 201, done.data

    def upload_form(self, path: str, content: bytes, branch: str = "main") -> None:
        """Send an object as a form, as the generated client does."""
        self.user.client.objects_api.upload_object(self.name, branch, path, content=content)

    def remove(self, path: str, branch: str = "main") -> None:
        self.user.client.objects_api.delete_object(self.name, branch, path)

    def commit(self, message: str = "work", branch: str = "main") -> str:
        wanted = CommitCreation(message=message, metadata={"stage": "clean"})
        return str(self.user.client.commits_api.commit(self.name, branch, wanted).id)

    def head(self, ref: str = "main") -> str:
        return str(self.user.client.commits_api.get_commit(self.name, ref).id)

    def branch(self, name: str, source: str = "main") -> None:
        self.user.client.branches_api.create_branch(self.name, BranchCreation(name=name, source=source))

    def tag(self, name: str, ref: str = "main") -> None:
        self.user.client.tags_api.create_tag(self.name, TagCreation(id=name, ref=ref))

    def tags(self) -> dict[str, str]:
        return {each.id: each.commit_id for each in self.user.client.tags_api.list_tags(self.name).results}

    def paths(self, ref: str = "main") -> set[str]:
        found, after = set(), ""
        while True:
            page = self.user.client.objects_api.list_objects(self.name, ref, after=after)
            found |= {each.path for each in page.results}
            if not page.pagination.has_more:
                return found
            after = page.pagination.next_offset

    def publish(self, local: Path, to: str) -> None:
        """Make what lies below ``to`` on main what lies at ``local``, and commit it."""
        files = [local] if local.is_file() else [each for each in local.rglob("*") if each.is_file()]
        wanted = {to if local.is_file() else f"{to}/{each.relative_to(local).as_posix()}": each for each in files}
        for path, each in wanted.items():
            self.upload(path, each.read_bytes())
        for path in self.paths() - wanted.keys():
            if path == to or path.startswith(f"{to}/"):
                self.remove(path)
        self.commit(f"publish {to}")


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 10_000):
        yield content[start : start + 10_000]
