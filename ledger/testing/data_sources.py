"""Conformance of a ``DataSource``::

class TestMySource(BaseDataSourceTests):
    @pytest.fixture
    def source(self, tmp_path): ...

    @pytest.fixture
    def publish(self): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ledger import Hasher
from ledger.errors import DataUnavailable, LedgerError, UsageError
from ledger.hooks.ports import DataSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ledger.events import DataCommit


class BaseDataSourceTests:
    """What every data source promises. Override the fixtures and, where it applies, the capabilities."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> DataSource:
        """A source, ready to be asked."""
        raise NotImplementedError

    @pytest.fixture
    def publish(self, tmp_path: Path) -> Callable[[Path], str]:
        """Make the content of a local directory or file available to the source, and return a URI for it.

        Called again after the local content was changed, it brings the change to the same URI.
        """
        raise NotImplementedError

    @property
    def keeps_history(self) -> bool:
        """Capability: a commit can still be fetched after its URI has come to hold something else."""
        return True

    @property
    def keeps_names(self) -> bool:
        """Capability: files are pinned and fetched under their names, whatever these are; rows of a table are not.

        Where this is False, ``publish`` brings name and content of each file into the source in a form of its own, and
        ``content`` and ``content_in_place`` read that form.
        """
        return True

    def content(self, fetched: Path) -> dict[str, bytes]:
        """Name and content of each published file, read from where ``fetch`` has put them."""
        return {
            path.relative_to(fetched).as_posix(): path.read_bytes() for path in fetched.rglob("*") if path.is_file()
        }

    def content_in_place(self, filesystem: Any, path: str, name: str) -> bytes:
        """The content of the published file ``name``, read through what ``open`` gave."""
        return bytes(filesystem.cat_file(f"{path}/{name}"))

    @property
    def missing_uri(self) -> str:
        """A URI of the source's own scheme behind which there is nothing."""
        raise NotImplementedError

    @property
    def malformed_uri(self) -> str:
        """A URI that the source must refuse as such."""
        raise NotImplementedError

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A small directory with all that is awkward about names and sizes."""
        root = tmp_path / "original"
        for name, content in _AWKWARD.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return root

    def test_is_a_data_source(self, source: DataSource) -> None:
        assert isinstance(source, DataSource)
        assert source.name
        assert source.version

    def test_pin_digests_every_name_and_byte(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path, tmp_path: Path
    ) -> None:
        uri = publish(tree)
        commit = source.pin(uri)
        if self.keeps_names:
            expected = Hasher().tree(tree)
        else:
            source.fetch(commit, tmp_path / "fetched")
            expected = Hasher().tree(tmp_path / "fetched")
        assert (commit.digest, commit.files, commit.bytes) == (
            expected.digest,
            expected.files,
            expected.bytes,
        )
        assert commit.uri == uri
        assert commit.commit
        assert commit.path

    def test_pinning_again_gives_the_same_commit(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path
    ) -> None:
        uri = publish(tree)
        assert source.pin(uri) == source.pin(uri)

    def test_fetch_gives_back_the_tree(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path, tmp_path: Path
    ) -> None:
        commit = source.pin(publish(tree))
        source.fetch(commit, tmp_path / "new" / "fetched")
        assert self.content(tmp_path / "new" / "fetched") == _AWKWARD

    def test_fetch_gives_back_a_single_file(
        self, source: DataSource, publish: Callable[[Path], str], tmp_path: Path
    ) -> None:
        if not self.keeps_names:
            pytest.skip("the source has no files of its user's")
        single = tmp_path / "original.txt"
        single.write_bytes(b"one file")
        commit = source.pin(publish(single))
        source.fetch(commit, tmp_path / "fetched.txt")
        assert (tmp_path / "fetched.txt").read_bytes() == b"one file"
        assert (commit.files, commit.bytes) == (1, 8)

    def test_fetch_refuses_a_place_that_is_taken(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path, tmp_path: Path
    ) -> None:
        commit = source.pin(publish(tree))
        taken = tmp_path / "taken"
        taken.mkdir()
        (taken / "mine").write_text("precious")
        with pytest.raises(UsageError, match="taken"):
            source.fetch(commit, taken)
        assert [(path.name, path.read_text()) for path in taken.iterdir()] == [("mine", "precious")]

    def test_open_reads_in_place(self, source: DataSource, publish: Callable[[Path], str], tree: Path) -> None:
        filesystem, path = source.open(source.pin(publish(tree)))
        assert self.content_in_place(filesystem, path, "sub/b.bin") == _AWKWARD["sub/b.bin"]

    def test_check_says_that_a_pin_can_be_had(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path
    ) -> None:
        assert source.check(source.pin(publish(tree))).available

    @pytest.mark.parametrize("change", ["one byte", "gone", "added", "renamed"])
    def test_a_change_gives_another_digest(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path, change: str
    ) -> None:
        before = source.pin(publish(tree))
        _change(tree, change)
        after = source.pin(publish(tree))
        assert after.digest != before.digest
        assert after.commit != before.commit

    @pytest.mark.parametrize("change", ["one byte", "gone", "added", "renamed"])
    def test_a_pin_outlives_a_change_or_says_what_changed(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path, tmp_path: Path, change: str
    ) -> None:
        commit = source.pin(publish(tree))
        named = _change(tree, change)
        publish(tree)
        if self.keeps_history:
            assert source.check(commit).available
            source.fetch(commit, tmp_path / "fetched")
            assert self.content(tmp_path / "fetched") == _AWKWARD
            return
        availability = source.check(commit)
        assert not availability.available
        with pytest.raises(DataUnavailable) as caught:
            source.fetch(commit, tmp_path / "fetched")
        for name in named:
            assert name in availability.reason
            assert name in str(caught.value)
        assert not (tmp_path / "fetched").exists()

    def test_open_never_gives_other_data_than_pinned(
        self, source: DataSource, publish: Callable[[Path], str], tree: Path
    ) -> None:
        commit = source.pin(publish(tree))
        _change(tree, "one byte")
        publish(tree)
        try:
            filesystem, path = source.open(commit)
            content = self.content_in_place(filesystem, path, "sub/b.bin")
        except DataUnavailable as error:
            reason = str(error)
            content = None
        assert content == _AWKWARD["sub/b.bin"] or (content is None and "sub/b.bin" in reason)

    def test_nothing_there_is_unavailable(self, source: DataSource) -> None:
        _raises_with_mend(DataUnavailable, lambda: source.pin(self.missing_uri))

    def test_a_malformed_uri_is_refused(self, source: DataSource) -> None:
        _raises_with_mend(UsageError, lambda: source.pin(self.malformed_uri))


_AWKWARD = {
    "a.txt": b"first\n",
    "empty": b"",
    "sub/b.bin": bytes(range(256)) * 300,
    "sub/deeper/name with spaces, # and % and ?.csv": b"x,y\n",
    "sub/\N{LATIN SMALL LETTER E WITH ACUTE}\N{SNOWMAN}.txt": b"\xff\x00",
    "twin": b"first\n",
}


def _change(tree: Path, kind: str) -> tuple[str, ...]:
    """Change the tree; returns what a message about it must name."""
    changed = tree / "sub/b.bin"
    if kind == "one byte":
        content = bytearray(changed.read_bytes())
        content[700] ^= 1
        changed.write_bytes(content)
        return ("changed sub/b.bin",)
    if kind == "gone":
        changed.unlink()
        return ("missing sub/b.bin",)
    if kind == "added":
        (tree / "sub/c.bin").write_bytes(b"new")
        return ("new sub/c.bin",)
    changed.rename(tree / "sub/moved.bin")
    return ("missing sub/b.bin", "new sub/moved.bin")


def _raises_with_mend(kind: type[LedgerError], call: Callable[[], DataCommit]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.mend
