"""A lakeFS server, spoken to through its own client; every failure is told in Ledger's words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger.errors import DataUnavailable, PluginUnavailable
from ledger.hooks.listing import THREADS
from ledger.hooks.uris import without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lakefs_sdk.client import LakeFSClient
    from lakefs_sdk.exceptions import ApiException

    from ledger_lakefs.access import Access

_PAGE: Final = 1000
_TIMEOUT_S: Final = (10, 60)
"""To connect; between two pieces of an answer."""
_TRIES: Final = 6
_CONNECTS: Final = 2
"""More tries where nobody listens: a server that is busy does, and a wrong endpoint should be told soon."""
_BACKOFF_S: Final = 0.5
"""Waits 0, 1, 2, 4 and 8 s where the server does not say how long."""
_LONGEST_WAIT_S: Final = 60
"""A server that asks for more is taken to be down for now."""

_LATER: Final = "try again later"
_MENDS: Final = {
    409: "try again: somebody else changes the same",
    412: "do what the repository asks for (its hooks say what), or take what is committed already",
    423: _LATER,
    429: _LATER,
}

Answer = TypeVar("Answer")


class NotThere(DataUnavailable):
    """The server answers, and says that there is no such thing, or no longer."""


class Malformed(DataUnavailable):
    """The server answers that what it was asked can be no name of its own, or makes no sense."""


class Server:
    """Calls of the client's API, tried again where the server is busy, with all failures as ``DataUnavailable``."""

    def __init__(self, access: Access) -> None:
        try:
            from lakefs_sdk import Configuration
            from lakefs_sdk.client import LakeFSClient
            from urllib3 import Retry
        except ImportError as error:
            raise PluginUnavailable(
                f"lakefs: URIs need a package that is not installed: {error.name}",
                mend="pip install 'training-ledger[lakefs]'",
            ) from error
        configuration = Configuration(host=access.endpoint, username=access.key, password=access.secret)
        configuration.connection_pool_maxsize = THREADS
        # A status is handed to the client after the last try, so that the server's own words are not lost.
        configuration.retries = Retry(
            total=_TRIES,
            connect=_CONNECTS,
            status_forcelist=(429, 500, 502, 503, 504),
            backoff_factor=_BACKOFF_S,
            retry_after_max=_LONGEST_WAIT_S,
            raise_on_status=False,
        )
        self.client: LakeFSClient = LakeFSClient(configuration)
        self.endpoint = without_credentials(access.endpoint)

    def call(self, what: str, request: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
        """The answer to ``request``, which asks for ``what``.

        Raises ``NotThere`` where there is no such thing, ``Malformed`` where there can be none, ``DataUnavailable``
        where it cannot be had.
        """
        from lakefs_sdk.exceptions import ApiException
        from urllib3.exceptions import HTTPError, MaxRetryError

        try:
            return request(*arguments, **options, _request_timeout=_TIMEOUT_S)
        except ApiException as error:
            # `from None`, here and below: the client's exceptions hold headers, and addresses that are keys themselves.
            raise self._refusal(what, error) from None
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            raise DataUnavailable(
                f"{what} cannot be had: lakeFS at {self.endpoint} cannot be reached ({type(reason).__name__})",
                mend="check the endpoint (LAKECTL_SERVER_ENDPOINT_URL, LAKEFS_ENDPOINT or ~/.lakectl.yaml), "
                "the network and the server",
            ) from None
        except ValueError as error:  # also pydantic's: an answer of another shape
            raise DataUnavailable(
                f"{what} cannot be had: what answers at {self.endpoint} is not the API of lakeFS "
                f"({type(error).__name__})",
                mend="check the endpoint: the server's address, without a path or with /api/v1",
            ) from None

    def listing(self, what: str, request: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
        """All results of a request that answers page by page."""
        after = ""
        while True:
            page = self.call(what, request, *arguments, after=after, amount=_PAGE, **options)
            yield from page.results
            if not page.pagination.has_more:
                return
            if page.pagination.next_offset == after:
                raise DataUnavailable(f"{what}: the server lists the same page again and again")
            after = page.pagination.next_offset

    def _refusal(self, what: str, error: ApiException) -> DataUnavailable:
        status, said = error.status or 0, _said(error)
        if status in (404, 410):
            return NotThere(f"{what} is not there: lakeFS at {self.endpoint} says {said}")
        if status == 401:
            return DataUnavailable(
                f"{what} cannot be had: lakeFS at {self.endpoint} does not accept the access key",
                mend="check the access key id and the secret access key, and that they belong to this server",
            )
        if status == 403:
            return DataUnavailable(
                f"{what} cannot be had: lakeFS at {self.endpoint} does not allow it ({said})",
                mend="ask whoever runs the server for the permission, or use another key",
            )
        if status == 0:
            return DataUnavailable(
                f"{what} cannot be had: no safe connection to lakeFS at {self.endpoint}",
                mend="check the endpoint and its certificate",
            )
        told = f"{what} cannot be had: lakeFS at {self.endpoint} answers {status} ({said})"
        if status == 400:
            return Malformed(told, mend="check the repository, the branch, tag or commit, and the path")
        usual = _LATER if status >= 500 else "ask whoever runs the server"
        return DataUnavailable(told, mend=_MENDS.get(status, usual))


def _said(error: ApiException) -> str:
    """The server's own words, in one line."""
    try:
        words = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        words = error.reason
    return "".join(c if c.isprintable() else " " for c in str(words))[:200]
