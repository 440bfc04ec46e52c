"""Which URIs are data behind fsspec, and what of them goes on record. Needs no server."""

from __future__ import annotations

import pytest

from ledger.errors import UsageError
from ledger.hooks.uris import without_credentials
from ledger_fsspec.asked import Asked, is_remote


@pytest.mark.parametrize(
    ("uri", "ours"),
    [
        ("s3://bucket/x", True),
        ("S3://bucket/x", True),
        ("abfss://container@account.dfs.core.windows.net/x", True),
        ("https://example.org/x", True),
        ("sftp://example.org/x", True),
        ("memory://x", False),
        ("file:///x", False),
        ("zip://x::s3://bucket/y", False),
        ("lakefs://corpus/main/", False),
        ("dvc://data", False),
        ("delta+s3://bucket/x", False),
        ("s3:bucket", False),
        ("plain/path", False),
        ("nonsense://x", False),
    ],
)
def test_which_uris_are_answered(uri: str, ours: bool) -> None:
    assert is_remote(uri) == ours


def test_options() -> None:
    assert Asked.parse("s3://bucket/x/") == Asked("s3://bucket/x/", snapshot=False, keep=True)
    assert Asked.parse("s3://bucket?snapshot=yes&keep=no") == Asked("s3://bucket", snapshot=True, keep=False)
    assert Asked.parse("S3://Bucket/X").url == "s3://Bucket/X"
    assert Asked.parse("abfss://c@account.dfs.core.windows.net/x").url == "abfss://c@account.dfs.core.windows.net/x"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/x",
        "https://SECRET@example.org/x",
        "abfss://user:SECRET@account.dfs.core.windows.net/x",
        "https://example.org/x?X-Amz-Signature=SECRET",
        "s3://bucket/x?snapshot=SECRET",
        "s3://",
        "s3:///x::y",
        "s3://bucket/x::zip://y",
    ],
)
def test_what_is_refused_is_not_repeated(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        Asked.parse(uri)
    assert caught.value.mend
    assert "SECRET" not in f"{caught.value} {caught.value.mend}"


@pytest.mark.parametrize(
    ("uri", "recorded"),
    [
        ("s3://key:secret@bucket/x?token=1", "s3://bucket/x"),
        ("sftp://user@host/x", "sftp://host/x"),
        ("abfss://container@account.dfs.core.windows.net/x?sig=1", "abfss://container@account.dfs.core.windows.net/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("abfss://user:secret@account.dfs.core.windows.net/x", "abfss://account.dfs.core.windows.net/x"),
        ("postgresql://user:se?cret@host/db", "postgresql://host/db"),
    ],
)
def test_a_container_of_azure_is_no_credential(uri: str, recorded: str) -> None:
    assert without_credentials(uri) == recorded
