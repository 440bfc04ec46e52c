"""Everything that decides bits beside code, data and recipe.

Seeds, flags, threads, the state of every generator.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger_trainer.recipe import Determinism

VARIABLES: Final = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "KMP_AFFINITY",
    "MKL_CBWR",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTHONHASHSEED",
)
"""Environment variables that change results."""


def settle(options: Determinism) -> None:
    """Set threads and flags; before anything is computed."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(options.algorithms)
    torch.backends.cudnn.benchmark = False


def seed_all(seed: int, purpose: str) -> None:
    """Seed python, NumPy, torch and every CUDA device, differently for each ``purpose``."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    random.seed(digest[:16])
    np.random.seed(np.frombuffer(digest[16:24], dtype="<u4"))
    torch.manual_seed(int.from_bytes(digest[24:32], "little") >> 1)


def capture_random_state() -> dict[str, Any]:
    """State of every generator of this process, of plain types only: torch loads it with ``weights_only``."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put every generator back to where ``capture_random_state`` found it."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside leaves no trace outside."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)


def facts(precision: str) -> dict[str, Any]:
    """What decides bits on this machine, for the log."""
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "autocast": precision,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def library_facts() -> dict[str, Any]:
    """Builds of torch and of what lies below it, for the log."""
    libraries: dict[str, Any] = {
        "torch": {
            "version": torch.__version__,
            "build": torch.__config__.show(),
            "parallel": torch.__config__.parallel_info(),
        }
    }
    if torch.cuda.is_available():
        libraries["cuda"] = torch.version.cuda
        libraries["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        libraries["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        libraries["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return libraries
