"""DeepSpeed itself, imported on first use and made to start without compiling anything."""

from __future__ import annotations

import gc
import importlib.util
import os
from typing import Any, Final

from ledger.errors import PluginUnavailable

INSTALL: Final = "pip install 'training-ledger[deepspeed]'"


def installed() -> bool:
    """Whether DeepSpeed is, found out without importing it."""
    return importlib.util.find_spec("deepspeed") is not None


def require() -> None:
    """Raise ``PluginUnavailable`` where DeepSpeed is not installed."""
    if not installed():
        raise PluginUnavailable("DeepSpeed is not installed", mend=INSTALL)


def load() -> Any:
    """The module ``deepspeed``."""
    require()
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as it would find out itself, with a warning on each rank
    import deepspeed

    return deepspeed


def start() -> Any:
    """The module ``deepspeed``, this process being one of its group."""
    deepspeed = load()
    deepspeed.utils.logging.set_log_level_from_string("warning")
    if deepspeed.get_accelerator().device_name() == "cpu":
        # A kernel for sums between processes of one host: compiling it takes half a minute, the bits are the same.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = deepspeed.get_accelerator().communication_backend_name()
    if "RANK" not in os.environ:  # no launcher: a single process, which has nobody to meet
        distributed = importlib.import_module("torch.distributed")
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
        os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False)
    return deepspeed


def leave() -> None:
    """Leave the process group, after everything that holds it is gone."""
    from torch import distributed

    # Were a tensor or an engine the last to hold the group, gloo would be torn down with the interpreter: SIGABRT.
    gc.collect()
    if distributed.is_initialized():
        distributed.destroy_process_group()
