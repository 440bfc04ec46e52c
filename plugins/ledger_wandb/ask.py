"""``python -m ledger_wandb.ask [ENTITY/]PROJECT/RUN [history]``: what a W&B server has of a run, as JSON lines.

A program of its own, because the client starts a service that tries for a long time: whoever runs it can end both. The
lines are as those of ``wandb leet inspect --json``. Exit code 3 says that there is no such run.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

_SECONDS: Final = 20


def main(path: str, *, history: bool) -> int:
    """Write the run to stdout."""
    import wandb

    try:
        api = wandb.Api(timeout=_SECONDS)
        if path.count("/") == 1:  # where an upload goes; by itself this would look below WANDB_ENTITY
            path = f"{api.default_entity}/{path}"
        run = api.run(path)
    except wandb.errors.CommError as error:
        if "could not find" not in str(error).lower():
            raise
        return 3
    _tell("run", {"config": {"update": dict(run.config)}, "tags": list(run.tags)})
    _tell("summary", {"update": dict(run.summary_metrics)})
    if history:
        for row in run.scan_history(use_cache=False):
            _tell("history", {"item": row})
    else:
        _tell("history", {"step": {"num": run.lastHistoryStep}})
    return 0


def _tell(kind: str, content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"type": kind, kind: content}) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], history="history" in sys.argv[2:]))
