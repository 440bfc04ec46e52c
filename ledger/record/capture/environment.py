"""What a run runs on: interpreter, packages, machine, and the variables that training listens to."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psutil
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from ledger.events import EnvironmentCaptured
from ledger.read.environment import DECISIVE_VARIABLES
from ledger.record.capture.interpreter import interpreter_of
from ledger.record.capture.secrets import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ledger.objects.store import ObjectStore
    from ledger.record.capture.interpreter import Interpreter

T = TypeVar("T")

# fmt: off
_PREFIXES: Final = (
    "ACCELERATE_", "ATEN_", "BLIS_", "CUBLAS", "CUDA_", "CUDNN_", "DS_", "FSDP_", "GLOO_", "GOMP_",
    "GOTO_", "HIP_", "HSA_", "JAX_", "KINETO_", "KMP_", "MIOPEN_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_",
    "NVTE_", "OMP_", "ONEDNN_", "DNNL_", "OPENBLAS_", "PYTORCH_", "RCCL_", "ROCR_", "TORCH",
    "TF_CUDNN_", "TF_DETERMINISTIC_", "TF_ENABLE_", "TF_GPU_", "TF_NUM_", "TF_XLA_",
    "TRITON_", "UCX_", "VECLIB_", "XLA_",
)
_NAMES: Final = frozenset({
    "HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONPATH", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_OFFLINE",
    "TZ",
})
# fmt: on
_SMI_FIELDS: Final = ("index", "name", "uuid", "driver_version", "memory.total", "compute_cap")
_TIMEOUT_S: Final = 30


def capture_environment(
    sections: Iterable[Mapping[str, Any]],
    failures: Mapping[str, str],
    objects: ObjectStore,
    *,
    command: Sequence[str] = (),
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
    interpreter: Interpreter | None = None,
) -> EnvironmentCaptured:
    """What ``command`` runs on when it is started in ``directory`` with ``environ``, by default our own.

    ``sections`` and ``failures`` are what plugins had to say. Packages are those of the command's
    interpreter. What cannot be found out is told in ``failures`` and raises nothing; raises
    ``StoreUnavailable`` where the list of packages cannot be kept.
    """
    environ = os.environ if environ is None else environ
    interpreter = interpreter or interpreter_of(command, directory=directory, environ=environ)
    failed = dict(failures)
    if interpreter.failure:
        failed["interpreter"] = interpreter.failure
    lines = "".join(sorted(f"{name}=={version}\n" for name, version in interpreter.packages.items()))
    captured = EnvironmentCaptured(
        python=dict(interpreter.python),
        packages=dict(interpreter.packages),
        lock=objects.put_bytes(lines.encode()),
        system=_attempt("system", _system, failed) or {},
        cpu=_attempt("cpu", _cpu, failed) or {},
        accelerators=_attempt("accelerators", lambda: _nvidia(environ), failed) or (),
        determinism=_determinism(environ),
        variables=_variables(environ),
    )
    whole = _with_sections(captured, sections, failed)
    redactor = Redactor({**os.environ, **environ})  # an exception may tell what it was given
    return whole.model_copy(update={"failures": {name: redactor.text(told) for name, told in failed.items()}})


def _attempt(name: str, look: Callable[[], T], failed: dict[str, str]) -> T | None:
    try:
        return look()
    except (OSError, ValueError, psutil.Error, subprocess.SubprocessError) as error:
        failed[name] = str(error) or type(error).__name__
        return None


def _with_sections(
    captured: EnvironmentCaptured, sections: Iterable[Mapping[str, Any]], failed: dict[str, str]
) -> EnvironmentCaptured:
    """Plugins' sections merged in, each on its own: one that does not fit is told, and costs no other."""
    for number, section in enumerate(sections, 1):
        merged = captured.model_dump()
        try:
            for name, content in section.items():
                before = merged.get(name)
                merged[name] = {**before, **content} if isinstance(before, dict) else (*(before or ()), *content)
            candidate = EnvironmentCaptured.model_validate(merged)
            candidate.model_dump_json()
        except (TypeError, ValidationError, PydanticSerializationError) as error:
            failed[f"section {number} of the plugins ({', '.join(map(str, section))})"] = str(error)
            continue
        captured = candidate
    return captured


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    relevant = {k: v for k, v in sorted(environ.items()) if k in _NAMES or k.startswith(_PREFIXES)}
    return Redactor(environ).mapping(relevant)


def _determinism(environ: Mapping[str, str]) -> dict[str, Any]:
    """What decides bits, as far as it shows from outside the training process."""
    set_here = {name: environ[name] for name in sorted(DECISIVE_VARIABLES) if name in environ}
    return {"default_threads": usable_cpus(), **set_here}


def _system() -> dict[str, Any]:
    name = f"{platform.system()} {platform.release()}"
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", name)
    except OSError:  # not Linux, or a bare container
        name = f"{platform.system()} {platform.mac_ver()[0]}".strip()
    return {
        "os": name,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "machine": platform.machine(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _cpu() -> dict[str, Any]:
    told = _cpuinfo(Path("/proc/cpuinfo"))
    return {
        "model": _model(told),
        "flags": sorted((told.get("flags") or told.get("Features") or "").split()),
        "physical": psutil.cpu_count(logical=False),
        "logical": psutil.cpu_count(),
        "usable": usable_cpus(),
    }


def cpu_model() -> str:
    """What the CPU is called."""
    return _model(_cpuinfo(Path("/proc/cpuinfo")))


def _model(told: Mapping[str, str]) -> str:
    return told.get("model name") or told.get("CPU part") or platform.processor() or platform.machine()


def _cpuinfo(path: Path) -> dict[str, str]:
    """What Linux says of the first CPU; nothing elsewhere."""
    if not path.exists():
        return {}
    first, _, _ = path.read_text(errors="replace").partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def usable_cpus() -> int | None:
    """CPUs that this process may use; from that OpenMP takes its number of threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _nvidia(environ: Mapping[str, str]) -> tuple[dict[str, Any], ...]:
    tool = shutil.which("nvidia-smi", path=environ.get("PATH", os.defpath))
    if tool is None:
        return ()
    done = subprocess.run(
        [tool, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"nvidia-smi: {(done.stdout + done.stderr).strip() or done.returncode}")
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return tuple(_gpu(dict(zip(_SMI_FIELDS, row, strict=True))) for row in rows if row)


def _gpu(told: Mapping[str, str]) -> dict[str, Any]:
    memory = told["memory.total"]
    return {
        "kind": "cuda",
        "index": int(told["index"]),
        "name": told["name"],
        "uuid": told["uuid"],
        "driver": told["driver_version"],
        # "[N/A]" on devices that share the host's memory.
        "memory_bytes": int(memory) * 2**20 if memory.isdigit() else None,
        "compute_capability": told["compute_cap"],
    }
