"""The kits of both ports."""

from contextlib import contextmanager
from functools import partial
from zipfile import ZipFile

import pytest

from ledger import ObjectStore
from ledger.testing.data_sources import BaseDataSourceTests
from ledger.testing.mirrors import BaseMirrorTests
from ledger_logbook.archive import Archive
from ledger_logbook.tracker import Tracker


class TestLogbook(BaseMirrorTests):
    can_be_occupied = False

    @pytest.fixture
    def directory(self, tmp_path):
        return tmp_path / "logbook"

    @pytest.fixture
    def open_mirror(self, directory):
        return partial(Tracker, directory)

    @pytest.fixture
    def unreachable(self, directory):
        @contextmanager
        def away():
            directory.rename(directory.with_name("aside"))
            directory.write_text("")
            yield
            directory.unlink()
            directory.with_name("aside").rename(directory)

        return away


class TestArchive(BaseDataSourceTests):
    keeps_history = False
    missing_uri = "zip:/nowhere/at/all.zip"
    malformed_uri = "zip:words.zip"

    @pytest.fixture
    def source(self, tmp_path):
        return Archive(ObjectStore((tmp_path / "objects").as_uri(), scratch=tmp_path))

    @pytest.fixture
    def publish(self, tmp_path):
        def pack(local):
            files = sorted(path for path in local.rglob("*") if path.is_file()) if local.is_dir() else [local]
            with ZipFile(tmp_path / "data.zip", "w") as archive:
                for path in files:
                    archive.write(path, path.relative_to(local if local.is_dir() else local.parent))
            return f"zip:{tmp_path / 'data.zip'}"

        return pack
