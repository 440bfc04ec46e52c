from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.servers import azure_service, azure_url, gcs_service, gcs_url, mlflow_service, s3_service, s3_url  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What trains takes longest: begun last, it would go on when all other workers are done."""
    items.sort(key=lambda item: item.path.name != "test_training.py")


@pytest.fixture(scope="session")
def pg_server() -> Iterator[postgres.Server]:
    """A PostgreSQL server that all tests of this process share: leave it running."""
    yield from postgres.servers()


@pytest.fixture(scope="session")
def _pg_template(pg_server: postgres.Server) -> str:
    return postgres.ledger_template(pg_server)


@pytest.fixture
def pg_url(pg_server: postgres.Server, _pg_template: str) -> Iterator[str]:
    """URL of an empty ledger in a PostgreSQL database of its own."""
    yield from postgres.databases(pg_server, _pg_template)


@pytest.fixture
def pg_empty_url(pg_server: postgres.Server) -> Iterator[str]:
    """URL of a PostgreSQL database without any table."""
    yield from postgres.databases(pg_server)
