"""One rank of a training.

``python -m ledger_trainer``, started by ``ledger train``, which wrote the recipe to the log.
"""

from __future__ import annotations

import os
import sys

import ledger
from ledger.errors import LedgerError


def main() -> int:
    """Train, and return the exit code of the process."""
    if "LEDGER_RUN" not in os.environ:
        sys.stderr.write("error: this is a part of `ledger train RECIPE.toml`, which records what it does; run that\n")
        return 2
    from ledger_trainer.session import train_rank

    try:
        with ledger.current_run(rank=0) as run:
            if code := train_rank(run):
                raise SystemExit(code)
    except LedgerError as error:
        sys.stderr.write(f"error: {error}\n" + (f"  → {error.mend}\n" if error.mend else ""))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
