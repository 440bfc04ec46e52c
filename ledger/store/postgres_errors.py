"""What PostgreSQL's errors mean to a user. What a message quotes comes from the server, which knows no password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ledger.errors import IntegrityError, LedgerError, StoreDamaged, StoreUnavailable

if TYPE_CHECKING:
    import psycopg

_GRANTS: Final = "let the owner of the tables run the GRANTs of docs/postgresql.md, or use another user"
_WAIT: Final = "do it again in a while: nothing was written by halves"
_LOST: Final = ("the connection was lost ({error})", "see that the server runs and can be reached, then do it again")
_MANY: Final = (
    "it has no connection left ({error})",
    "end what holds connections, raise max_connections, or put a pooler such as PgBouncer in front of it",
)
_SECRET: Final = "write it in ~/.pgpass or PGPASSWORD, or in the URL with %40 for an @ and %2F for a /"  # noqa: S105

_REFUSALS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), why, mend)
    for pattern, why, mend in (
        (
            "password authentication failed|authentication failed for user",
            "the server does not accept this user with this password",
            _SECRET,
        ),
        ("no password supplied", "the server asks for a password, and there is none", _SECRET),
        (r'database ".*" does not exist', "there is no such database on this server", "create it: createdb NAME"),
        (r'role ".*" does not exist', "the server does not know this user", "name one that it knows in the URL"),
        (
            "no pg_hba.conf entry|pg_hba.conf rejects",
            "the server admits no such connection ({error})",
            "add a line for this user, database and host to the server's pg_hba.conf",
        ),
        ("too many (clients|connections)|connection slots are reserved", *_MANY),
        ("starting up|shutting down|not yet accepting|recovery", "the server is not ready ({error})", _WAIT),
        (
            "invalid [a-z_ ]*(option|parameter|value|number)|bad value|invalid dsn",
            "an option in the URL is not one of libpq's ({error})",
            "https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS lists them",
        ),
        (
            "invalid response|server closed the connection unexpectedly",
            "what answers there does not behave like PostgreSQL ({error})",
            "see that host and port in the URL are those of the server",
        ),
        (
            "refused|could not translate|failed to resolve|timeout|timed out|no such file|unreachable|no route",
            "the server does not answer ({error})",
            "see that the server runs, and that host and port in the URL are right",
        ),
    )
)
"""Of a connection that did not come about. There are no codes for that, only words."""

_MEANINGS: Final = {
    "25006": ("it may only be read", "name the primary server and not a standby, and a user who may write"),
    "42501": ("access is denied ({error})", _GRANTS),
    "3F000": ("the search_path names no schema that there is", "create the schema, or name another in the URL"),
    "42P01": ("a table is missing ({error})", "its tables were changed from outside: put back a copy from before that"),
    "53100": ("the server's disk is full", "free some space and do it again: nothing was written by halves"),
    "53300": _MANY,
    "55P03": (
        "another process has been writing for more than 30 seconds",
        "find it with `SELECT pid, application_name, client_addr, state FROM pg_stat_activity`, end it if it hangs, "
        "and do it again",
    ),
    "57P03": ("the server is not ready ({error})", _WAIT),
    "22P05": ("its encoding cannot hold this text ({error})", "move it to a database with ENCODING 'UTF8'"),
}
"""By SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html."""
_DAMAGED: Final = "XX"
_CLASSES: Final = {
    "08": _LOST,
    "57": ("the server ended the statement ({error})", _WAIT),
    "58": ("the server could not read or write its files ({error})", "look after the server's disks"),
    _DAMAGED: ("the database is damaged ({error})", "put back a copy from before that"),
}


def explain(place: str, error: psycopg.Error) -> LedgerError:
    """The error for what the driver raised while it used the log in ``place``."""
    code = error.sqlstate or ""
    words = _sentence(error)
    if code.startswith("23"):
        return IntegrityError(
            f"the log in {place} refused an append: {words}",
            mend="its tables were changed from outside: put back a copy from before that",
        )
    if not code:
        found = ((why, mend) for pattern, why, mend in _REFUSALS if pattern.search(str(error)))
        why, mend = next(found, _LOST)
    else:
        why, mend = _MEANINGS.get(code) or _CLASSES.get(
            code[:2], ("{error}", "the server's own log tells more about it")
        )
    kind = StoreDamaged if code.startswith(_DAMAGED) else StoreUnavailable
    return kind(f"the log in {place} cannot be used: {why.format(error=words)}", mend=mend)


def _sentence(error: psycopg.Error) -> str:
    """What the server said, in one line; of several attempts to connect, the last."""
    said = error.diag.message_primary or str(error).strip().partition("\n")[0]
    return said.rpartition("failed: ")[2].removeprefix("FATAL:").strip() or type(error).__name__
