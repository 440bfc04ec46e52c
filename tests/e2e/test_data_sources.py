"""Both bundled tasks train from each source; the source moves on; the replay is identical, or says why it cannot be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

import fsspec
import pytest

from tests.e2e.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.lakefs.user import Repo, User
    from tests.servers import Service

pytest_plugins = ["tests.lakefs.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore:Use of allowEmptyValue:DeprecationWarning")

TEXT = """
task = "ledger_trainer.tasks.kjv:gpt"
seed = 7
steps = 4
[task_options]
n_layer = 1
n_head = 2
n_embd = 16
block_size = 16
[batch]
size = 4
[determinism]
threads = 1
"""
IMAGES = """
task = "ledger_trainer.tasks.mnist:classifier"
seed = 7
steps = 3
[batch]
size = 8
[determinism]
threads = 1
"""
TASKS = {"kjv": ("kjv.txt", TEXT), "mnist": ("mnist.npz", IMAGES)}


class Place(Protocol):
    """Where data are, of some kind."""

    environ: Mapping[str, str]
    """Variables under which it is found."""
    words: tuple[str, ...]
    """What `ledger train` has to be told before it can pin what was put there."""

    def publish(self, name: str, content: bytes) -> str:
        """Put a file there, as somebody does who has data; the URI to read it by."""

    def move_on(self, name: str) -> None:
        """Let other content take its place, in the way that is usual there."""

    def lose(self, name: str) -> None:
        """Let the content that was published first be gone for good."""


@dataclass
class Folder:
    """Files beside the code, of which the ledger keeps a copy."""

    desk: Desk
    environ: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    digest: str = ""

    def publish(self, name: str, content: bytes) -> str:
        (self.desk.home / "data").mkdir()
        (self.desk.home / "data" / name).write_bytes(content)
        self.digest = hashlib.sha256(content).hexdigest()
        return f"file:data/{name}"

    def move_on(self, name: str) -> None:
        (self.desk.home / "data" / name).write_bytes(b"other")

    def lose(self, name: str) -> None:
        (self.desk.home / ".ledger/objects" / self.digest[:2] / self.digest[2:]).unlink()


@dataclass
class Bucket:
    """Object storage that keeps versions."""

    scheme: str
    environ: Mapping[str, str]
    words: tuple[str, ...] = ()
    version: str = ""
    name: str = field(default_factory=lambda: f"versions-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        self.fs: Any = fsspec.filesystem(
            self.scheme, skip_instance_cache=True, use_listings_cache=False, version_aware=True
        )
        if self.scheme == "s3":
            self.fs.mkdir(self.name)
            self.fs.make_bucket_versioned(self.name)
        else:
            self.fs.mkdir(self.name, enable_versioning=True)

    def publish(self, name: str, content: bytes) -> str:
        self.fs.pipe_file(f"{self.name}/sets/{name}", content)
        self.version = self.fs.info(f"{self.name}/sets/{name}").get("VersionId", "")
        return f"{self.scheme}://{self.name}/sets/{name}"

    def move_on(self, name: str) -> None:
        self.fs.pipe_file(f"{self.name}/sets/{name}", b"other")

    def lose(self, name: str) -> None:
        if self.scheme == "s3":
            self.fs.call_s3("delete_object", Bucket=self.name, Key=f"sets/{name}", VersionId=self.version)
        else:  # the emulator keeps a version for as long as its bucket
            self.fs.rm(self.name, recursive=True)


@dataclass
class Lake:
    """A branch in lakeFS, on which the data are not committed yet."""

    repo: Repo
    user: User
    environ: Mapping[str, str]
    words: tuple[str, ...] = ("--commit", "the data")
    pinned: str = ""

    def publish(self, name: str, content: bytes) -> str:
        self.repo.upload(f"sets/{name}", content)
        return f"lakefs://{self.repo.name}/main/sets/{name}"

    def move_on(self, name: str) -> None:
        self.pinned = self.repo.head()
        self.repo.remove(f"sets/{name}")
        self.repo.upload("sets/other", b"other")
        self.repo.commit("the data have gone elsewhere")

    def lose(self, name: str) -> None:
        if self.user.standin:
            self.user.standin.lose(self.repo.name, self.pinned, f"sets/{name}")
        else:  # a real server loses nothing less on demand
            self.user.delete(self.repo)


@pytest.fixture
def place(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Place]:
    if request.param == "file":
        yield Folder(desk)
    elif request.param == "lakefs":
        user: User = request.getfixturevalue("user")
        yield Lake(user.repository(), user, user.environ)
    else:
        service: Service = request.getfixturevalue(f"{'gcs' if request.param == 'gs' else 's3'}_service")
        with service.folder():
            yield Bucket(service.scheme, service.environ())


@pytest.mark.parametrize(
    ("place", "task"),
    [
        pytest.param("file", "mnist", marks=pytest.mark.slow),
        pytest.param("file", "kjv", marks=pytest.mark.thorough),
        *(pytest.param(place, "kjv", marks=pytest.mark.slow) for place in ("s3", "lakefs")),
        pytest.param("gs", "kjv", marks=pytest.mark.thorough),
        *(pytest.param(place, "mnist", marks=pytest.mark.thorough) for place in ("s3", "gs", "lakefs")),
    ],
    indirect=["place"],
)
def test_a_training_is_replayed_from_what_it_read(desk: Desk, place: Place, task: str) -> None:
    file, recipe = TASKS[task]
    desk.run("python", "-m", f"ledger_trainer.tasks.{task}", file)
    whole = (desk.home / file).read_bytes()
    (desk.home / file).unlink()
    content = whole[:20_000] if task == "kjv" else whole
    desk.environ.update(place.environ)
    uri = place.publish(file, content)
    desk.write(recipe__toml=f'{recipe}[data.train]\nuri = "{uri}"\n', ledger__toml="[ledger]\n", __gitignore="data/\n")
    desk.commit()
    desk.ledger("train", "recipe.toml", *place.words)
    read = desk.ledger("run", "--data", f"train={uri}", "--", "sh", "-c", 'sha256sum < "$LEDGER_DATA_TRAIN"')
    assert hashlib.sha256(content).hexdigest() in read.out
    (facts,) = desk.ledger("show", "run-2", "--json").json
    assert facts["data"]["train"]["bytes"] == len(content)

    place.move_on(file)
    assert desk.ledger("replay", "run-1").out.startswith("identical")
    secrets = [value for name, value in place.environ.items() if "SECRET" in name]
    assert not any(secret in desk.ledger("log", "run-1", "--json").out for secret in secrets)

    place.lose(file)
    said = desk.ledger("replay", "run-1", "--plan", code=4)
    assert "data train cannot be had" in said.out + said.err
    (verdict,) = desk.ledger("replay", "run-1", "--json", code=4).json
    assert verdict["verdict"] == "not-replayable"
