"""What differs between two environments, most important first: what moves bits comes before the rest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from ledger.events import EnvironmentCaptured

# fmt: off
DECISIVE_VARIABLES: Final = frozenset({
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_MAX_CPU_ISA", "KMP_AFFINITY", "MKL_CBWR",
    "MKL_DYNAMIC", "MKL_NUM_THREADS", "NCCL_ALGO", "NCCL_PROTO", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC",
    "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED",
    "TF_DETERMINISTIC_OPS", "TF_ENABLE_ONEDNN_OPTS", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "XLA_FLAGS",
})
"""Environment variables that change the results of a training."""
_FRAMEWORKS: Final = (
    "torch", "numpy", "jax", "jaxlib", "tensorflow", "deepspeed", "megatron-core", "transformer-engine",
    "flash-attn", "xformers", "triton", "lightning", "pytorch-lightning", "transformers", "accelerate",
    "peft", "torchvision", "torchaudio", "torchdata", "datasets", "tokenizers", "safetensors",
    "scikit-learn", "scipy",
)
COMPUTES: Final = frozenset({
    "torch", "numpy", "scipy", "jax", "jaxlib", "tensorflow", "deepspeed", "megatron-core", "transformer-engine",
    "flash-attn", "xformers", "triton", "scikit-learn",
})
"""Packages whose own versions decide the results of a training."""
# fmt: on
_SHOWN: Final = 60
_UNSET: Final = "not set"
_NOT_INSTALLED: Final = "not installed"


def differences(expected: EnvironmentCaptured, actual: EnvironmentCaptured) -> list[str]:
    """One readable line for each difference: ``threads 2 → 1``, ``torch 2.13.0 → 2.14.0``.

    First determinism flags and threads, how the processes train together, then frameworks and what lies below them,
    Python, CPU and accelerators, other packages, environment variables, and the system. What only one of the two was
    asked for, such as flags that only a training process can see, is no difference. Nor are identities that change no
    bit: host, prefix, serial numbers.
    """
    return [
        *_determinism(expected, actual),
        *topology_differences(expected.topology, actual.topology),
        *_frameworks(expected, actual),
        *_known(expected.python, actual.python, ("version", "implementation"), "python "),
        *_cpu(expected.cpu, actual.cpu),
        *_accelerators(expected.accelerators, actual.accelerators),
        *_packages(expected, actual, lambda name: not _is_framework(name)),
        *_variables(expected, actual, decisive=False),
        *_known(expected.system, actual.system, ("os", "kernel", "libc", "machine", "memory_bytes"), "system "),
    ]


def topology_differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """What differs in how the processes train together: engine, backend, mesh, and where in it each rank is.

    Nothing where one of the two is not known. Names of hosts move no bit; on how many they are may.
    """
    if not expected or not actual:
        return []
    changes = [
        *_change("engine", expected.get("engine"), actual.get("engine")),
        *_change("backend", expected.get("backend") or "none", actual.get("backend") or "none"),
        *_change("mesh", spelled_mesh(expected), spelled_mesh(actual)),
    ]
    before, after = expected.get("ranks") or [], actual.get("ranks") or []
    changes += _change("hosts", len({r.get("host") for r in before}), len({r.get("host") for r in after}))
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        changes += _known(old, new, ("coordinates", "device", "threads"), f"rank {number} ")
    return changes


def spelled_mesh(topology: Mapping[str, Any]) -> str:
    """``pipeline 2 x data 2``: the dimensions that have a size, outermost first."""
    sizes = topology.get("mesh") or {}
    return " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1) or "one process"


def _determinism(expected: EnvironmentCaptured, actual: EnvironmentCaptured) -> Iterator[str]:
    before, after = _flat(expected.determinism), _flat(actual.determinism)
    names = sorted(before.keys() & after.keys(), key=lambda n: ("threads" not in n, n))
    for name in names:
        # A variable is told below, once, whichever section it also stands in.
        if name.removeprefix("variables.") not in DECISIVE_VARIABLES:
            yield from _change(name.replace("_", " "), before[name], after[name])
    yield from _variables(expected, actual, decisive=True)


def _variables(expected: EnvironmentCaptured, actual: EnvironmentCaptured, *, decisive: bool) -> Iterator[str]:
    before, after = dict(expected.variables), dict(actual.variables)
    inner, outer = expected.determinism.get("variables"), actual.determinism.get("variables")
    if isinstance(inner, dict) and isinstance(outer, dict):  # both training processes told what they saw
        before |= inner
        after |= outer
    for name in sorted(before.keys() | after.keys()):
        if (name in DECISIVE_VARIABLES) == decisive:
            yield from _change(name, before.get(name, _UNSET), after.get(name, _UNSET))


def _frameworks(expected: EnvironmentCaptured, actual: EnvironmentCaptured) -> Iterator[str]:
    yield from _packages(expected, actual, _is_framework)
    before, after = _flat(expected.libraries), _flat(actual.libraries)
    for name in sorted(before.keys() & after.keys()):
        if name != "torch.version":  # a package, too
            yield from _change(name, before[name], after[name])


def _is_framework(name: str) -> bool:
    return name in _FRAMEWORKS or name.startswith("nvidia-")


def _packages(
    expected: EnvironmentCaptured, actual: EnvironmentCaptured, chosen: Callable[[str], bool]
) -> Iterator[str]:
    before, after = expected.packages, actual.packages
    if not before or not after:
        return
    rank = {name: number for number, name in enumerate(_FRAMEWORKS)}
    for name in sorted(before.keys() | after.keys(), key=lambda n: (rank.get(n, len(rank)), n)):
        if chosen(name):
            yield from _change(name, before.get(name, _NOT_INSTALLED), after.get(name, _NOT_INSTALLED))


def _cpu(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Iterator[str]:
    yield from _known(expected, actual, ("model", "usable", "physical", "logical"), "cpu ")
    before, after = set(expected.get("flags") or ()), set(actual.get("flags") or ())
    if before and after and before != after:
        changes = [f"-{flag}" for flag in sorted(before - after)] + [f"+{flag}" for flag in sorted(after - before)]
        yield f"cpu flags {_short(' '.join(changes))}"


def _accelerators(expected: Iterable[Mapping[str, Any]], actual: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    before, after = list(expected), list(actual)
    yield from _change("accelerators", _counted(before), _counted(after))
    for key in ("driver", "compute_capability", "memory_bytes"):
        old, new = _distinct(before, key), _distinct(after, key)
        if old and new:
            yield from _change(f"accelerator {key.replace('_', ' ')}", old, new)


def _counted(devices: Iterable[Mapping[str, Any]]) -> str:
    """``2 x NVIDIA H100``, or ``none``."""
    counts = Counter(str(device.get("name")) for device in devices)
    return ", ".join(f"{n} x {name}" if n > 1 else name for name, n in sorted(counts.items())) or "none"


def _distinct(devices: Iterable[Mapping[str, Any]], key: str) -> str:
    return ", ".join(sorted({str(device[key]) for device in devices if device.get(key) is not None}))


def _known(
    expected: Mapping[str, Any], actual: Mapping[str, Any], names: Collection[str], prefix: str
) -> Iterator[str]:
    for name in names:
        if name in expected and name in actual:
            label = prefix.strip() if name == "version" else f"{prefix}{name.replace('_', ' ')}"
            yield from _change(label, expected[name], actual[name])


def _change(what: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    old, new = str(before), str(after)
    if "\n" in old or "\n" in new:
        yield f"{what} differs"
    else:
        yield f"{what} {_short(old)} → {_short(new)}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
