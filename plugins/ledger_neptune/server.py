"""A Neptune server, spoken to through Neptune's own client; every failure is told in Ledger's words."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger.errors import Conflict, LedgerError, NotFound, Unavailable
from ledger_neptune.place import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ledger_neptune.place import Place

_TRY_S: Final = 1
"""How long Neptune's client tries again by itself, which it would for a minute: whoever delivers comes again."""
_PAGE: Final = 1000
"""Points in one answer, as the client asks for them."""
_SAID: Final = 300
"""Characters of the server's own words that are told."""
_ADDRESS: Final = "check [plugin.neptune] endpoint in ledger.toml, the network and the server; nothing is lost"

Answer = TypeVar("Answer")


class Server:
    """One project, and what is asked of it; each question is asked once.

    Raises ``Unavailable`` where it cannot be had now, ``NotFound`` where there is no such project.
    """

    def __init__(self, place: Place) -> None:
        from ledger_neptune.backend import Backend

        self.address = place.endpoint
        try:
            self._backend = self._ask("the login", partial(Backend, place.endpoint))
        except (AttributeError, LookupError, TypeError):  # JSON of another kind than the client takes for granted
            raise self._stranger() from None
        self._project = self._ask(f"the project {place.project}", self._backend.get_project, place.project)

    def find(self, run: str) -> str | None:
        """Neptune's id of the run with this UUID."""
        from neptune.internal.backends.nql import NQLAttributeOperator, NQLAttributeType, NQLQueryAttribute
        from neptune.internal.container_type import ContainerType

        asked = NQLQueryAttribute("sys/custom_run_id", NQLAttributeType.STRING, NQLAttributeOperator.EQUALS, run)
        search = partial(self._backend.search_leaderboard_entries, self._project.id, [ContainerType.RUN], asked)
        found = self._ask("the run", lambda: list(search(["sys/id"], limit=1, sort_by="sys/id", progress_bar=False)))
        return str(found[0].id) if found else None

    def made(self, run: str) -> str:
        """The same, of a run that is made where there is none. Raises ``Conflict`` for one in the trash."""
        found = self._ask("the run", partial(self._backend.create_run, self._project.id, custom_run_id=run))
        if found.trashed:
            raise self.in_trash(run)
        return str(found.id)

    def attributes(self, run: str) -> Sequence[Any]:
        """All fields and series of a run, with the values of fields and the last steps of series."""
        api = self._backend.leaderboard_client.api
        answer = self._ask("the run", lambda: api.getExperimentAttributes(experimentId=run).response().result)
        found: Sequence[Any] = answer.attributes
        return found

    def points(self, run: str, path: list[str], kind: str) -> Iterator[Any]:
        """The points of a series, in their order."""
        from neptune.internal.container_type import ContainerType

        backend = self._backend
        page = backend.get_float_series_values if kind == "floatSeries" else backend.get_string_series_values
        offset, total = 0, 1
        while offset < total:
            ask = partial(page, run, ContainerType.RUN, path, offset, _PAGE)
            answer = self._ask("/".join(path), ask)
            yield from answer.values
            offset, total = offset + _PAGE, answer.totalItemCount

    def execute(self, run: str, operations: list[Any]) -> None:
        """Have operations carried out; the server has them for good when it returns."""
        from neptune.internal.container_type import ContainerType

        execute: Any = self._backend.execute_operations
        storage = None  # for files: this mirror sends none
        _, refused = self._ask("a delivery", execute, run, ContainerType.RUN, operations, storage)
        if refused:
            raise self._refused("a delivery", str(refused[0]))

    def in_trash(self, run: str) -> Conflict:
        """What to say of a run that somebody has thrown away."""
        return Conflict(
            f"the run {run} is in the trash of Neptune at {self.address}",
            mend="restore it there, or delete it for good: then it is made anew",
        )

    def _ask(self, what: str, request: Callable[..., Answer], *arguments: Any) -> Answer:
        from bravado.exception import HTTPError
        from bravado_core.exception import SwaggerError
        from jwt import PyJWTError
        from neptune.common.backends.utils import with_api_exceptions_handler
        from neptune.common.exceptions import NeptuneException
        from neptune.management.exceptions import ManagementOperationFailure
        from oauthlib.oauth2 import OAuth2Error
        from requests import RequestException

        try:
            with _once():
                answer: Answer = with_api_exceptions_handler(request)(*arguments)
                return answer
        except (NeptuneException, ManagementOperationFailure) as error:
            # `from None`: the client's messages quote what it was given.
            raise self._told(what, error) from None
        except (OAuth2Error, PyJWTError) as error:
            raise self._locked(what, f"its login fails ({type(error).__name__})") from None
        except (HTTPError, SwaggerError, ValueError):  # JSON that is none is a RequestException, too
            raise self._stranger() from None
        except RequestException as error:
            raise self._away(what, type(error).__name__) from None

    def _told(self, what: str, error: Exception) -> LedgerError:
        from neptune.common import exceptions as common
        from neptune.exceptions import ContainerUUIDNotFound, NeptuneLimitExceedException, ProjectNotFound
        from neptune.management.exceptions import ObjectNotFound

        match error:
            case common.NeptuneConnectionLostException():
                return self._away(what, type(error.cause).__name__)
            case common.Unauthorized() | common.NeptuneInvalidApiTokenException():
                return self._locked(what, "it does not accept the key")
            case common.Forbidden():
                return self._locked(what, "it does not allow that to this account")
            case ProjectNotFound():
                return NotFound(
                    f"{what}: Neptune at {self.address} has no such project, or does not show it to this account",
                    mend="make it there, or name another one in [plugin.neptune] project",
                )
            case ContainerUUIDNotFound() | ObjectNotFound():
                return Unavailable(f"{what}: Neptune at {self.address} no longer has the run", mend="deliver it again")
            case common.ClientHttpError() if error.status == 404:
                return self._stranger()
            case common.ClientHttpError():
                return self._refused(what, f"HTTP {error.status}: {error.response}")
            case NeptuneLimitExceedException():
                return self._refused(what, "a limit of the workspace is reached")
            case _:
                return self._refused(what, type(error).__name__)

    def _away(self, what: str, why: str) -> Unavailable:
        return Unavailable(f"{what}: Neptune at {self.address} cannot be reached ({why})", mend=_ADDRESS)

    def _locked(self, what: str, why: str) -> Unavailable:
        return Unavailable(
            f"{what}: Neptune at {self.address} says no: {why}",
            mend=f"set {KEY} to a key of an account that may write to the project; nothing is lost",
        )

    def _stranger(self) -> Unavailable:
        return Unavailable(f"what answers at {self.address} is not Neptune", mend=_ADDRESS)

    def _refused(self, what: str, said: str) -> LedgerError:
        return LedgerError(
            f"{what}: Neptune at {self.address} refuses it: {' '.join(said.split())[:_SAID]}",
            mend="nothing of it counts as delivered; see in Neptune what stands in the way, then deliver again",
        )


@contextmanager
def _once() -> Iterator[None]:
    from neptune.common.backends import utils

    before = utils.retries_timeout
    utils.retries_timeout = _TRY_S
    try:
        yield
    finally:
        utils.retries_timeout = before
