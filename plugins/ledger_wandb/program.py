"""``python -m ledger_wandb.program MODULE ARGUMENT…``: one of W&B's programs, which ends when who started it is gone.

Its stdin is a pipe that nobody writes to: it ends with the process that holds the other end, however that dies. W&B's
own service sees that this process is gone and ends, too; else it would go on trying to upload for days.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def main() -> None:
    """Run the module as ``python -m`` would."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
