"""An MLflow server, spoken to through MLflow's own client; every failure is told in Ledger's words."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger.errors import LedgerError, PluginUnavailable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from ledger_mlflow.place import Place

_VARIABLES: Final = {
    # Once: a retried "create run" can make two runs, and whoever delivers comes again by itself.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_TIMEOUT: Final = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_TIMEOUT_S: Final = "30"
_SAID: Final = 300
"""Characters of the server's own words that are told."""

Answer = TypeVar("Answer")


class Refused(LedgerError):
    """The server answers that it will never take this (4xx); in smaller parts it may."""


class Gone(Unavailable):
    """The server answers that there is no such thing, or no longer."""


class Server:
    """Calls of MLflow's client, each made once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        with _once():
            try:
                from mlflow import MlflowClient
            except ImportError as error:
                raise PluginUnavailable(
                    f"the mirror mlflow needs a package that is not installed: {error.name}",
                    mend="pip install 'training-ledger[mlflow]'",
                ) from error
            self.client: MlflowClient = MlflowClient(tracking_uri=place.uri)

    def call(self, what: str, request: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:
        """The answer to ``request``, which does ``what``.

        Raises ``Refused`` and ``Gone`` where the server says so, ``Unavailable`` where it cannot be had now.
        """
        from google.protobuf.json_format import ParseError
        from mlflow.exceptions import MlflowException

        try:
            with _once():
                return request(*arguments, **options)
        except (ParseError, ValueError):
            raise self._stranger(what) from None
        except MlflowException as error:
            # `from None`: the client's exceptions hold addresses, and an address may hold a password.
            raise self._told(what, error) from None

    def _told(self, what: str, error: MlflowException) -> LedgerError:
        from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

        status, at = ERROR_CODE_TO_HTTP_STATUS.get(error.error_code, 500), f"MLflow at {self._place.address}"
        if status == 401:
            return Unavailable(
                f"{what}: {at} does not accept the credentials",
                mend="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
                "to those of an account on this server",
            )
        if status == 403:
            return Unavailable(
                f"{what}: {at} does not allow it to this account",
                mend=f"ask whoever runs the server for the permission to edit the experiment {self._place.experiment}",
            )
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return Gone(f"{what}: {at} has no such thing ({_said(error)})", mend="see in MLflow whether it was deleted")
        if status in (404, 405):
            return self._stranger(what)
        if 400 <= status < 500 and status not in (408, 429):
            return Refused(f"{what}: {at} refuses it ({_said(error)})", mend="the server's version may be too old")
        reason = error.__cause__ or error.__context__
        if reason is None:  # an answer that the client can make nothing of
            return self._stranger(what)
        return Unavailable(f"{what}: {at} cannot be reached ({type(reason).__name__})", mend=_ADDRESS)

    def _stranger(self, what: str) -> Unavailable:
        return Unavailable(f"{what}: what answers at {self._place.address} is not MLflow", mend=_ADDRESS)


_ADDRESS: Final = (
    "check the address ([plugin.mlflow] tracking_uri in ledger.toml, or MLFLOW_TRACKING_URI), "
    "the network and the server"
)


def _said(error: MlflowException) -> str:
    return " ".join(str(error.message).split())[:_SAID]


@contextmanager
def _once() -> Iterator[None]:
    """MLflow takes its limits from variables only; by its own it tries for minutes."""
    wanted = _VARIABLES | ({} if _TIMEOUT in os.environ else {_TIMEOUT: _TIMEOUT_S})
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
