"""Why a replay cannot be expected to come to the same bits, decided before it runs. Pure."""

from __future__ import annotations

import os.path
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ledger.read.environment import COMPUTES, DECISIVE_VARIABLES, topology_differences
from ledger.replay.part import begins, step_text
from ledger.replay.witnesses import own_checkpoints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ledger.events import EnvironmentCaptured
    from ledger.read.state import Attempt, RunState
    from ledger.replay.part import Part

_INSTRUCTIONS: Final = ("amx", "asimd", "avx", "bf16", "f16c", "fma", "neon", "sse4", "sve")
"""Beginnings of the CPU flags by which libraries choose how they compute."""
_SHOWN: Final = 6


def inexact(state: RunState, part: Part, now: EnvironmentCaptured) -> tuple[str, ...]:
    """Every reason, each with what can be done about it; ``now`` is what the replayed command sees.

    What is not listed may still differ in ways that nobody can know beforehand; what is listed may by luck come to
    the same bits. So these are expectations, and no verdict.
    """
    return tuple(dict.fromkeys([*_processes(state, part), *_environments(state, part, now)]))


# --- other processes --------------------------------------------------------------------------------------


def _processes(state: RunState, part: Part) -> Iterator[str]:
    if not part.attempts:
        return
    first = part.attempts[0]
    if part.processes:
        yield (
            f"{_count(part.processes)} {'is' if part.processes == 1 else 'are'} asked for and {first.world.processes} "
            "trained: sums come in another order, and each process draws random numbers (dropout) of its own: compare "
            "within a --tolerance"
        )
    if first.world.nodes > 1:
        yield (
            f"it trained on {first.world.nodes} nodes, and a replay has all {first.world.processes} processes on this "
            "one: what they add up may be added in another order"
        )
    yield from list(_resumed(state, part)) or _written(part, state)


def _resumed(state: RunState, part: Part) -> Iterator[str]:
    """Attempts that went on with other processes than the one before."""
    for before, after in pairwise(part.attempts):
        if before.world.processes != after.world.processes:
            yield (
                f"attempt {after.number} went on from step {step_text(begins(after))} with "
                f"{_count(after.world.processes)}, and {before.world.processes} trained before: replay each part "
                f"alone, {' and '.join(_apart(state, after))}"
            )


def _apart(state: RunState, attempt: Attempt) -> Iterator[str]:
    """The commands that repeat what lies before an attempt, and what it made from where a checkpoint is kept."""
    begin = begins(attempt)
    yield f"`ledger replay {state.name} --until-step {step_text(begin)}`"
    kept = next((written.step for written in state.checkpoints if written.step >= begin), None)
    if kept is not None and kept < (state.last_step or begin):
        yield f"`ledger replay {state.name} --from-step {step_text(kept)}`"


def _written(part: Part, state: RunState) -> list[str]:
    """Checkpoints that tell of another number of processes, where the log has no attempt to explain it."""
    by = {written.processes: written for written in own_checkpoints(state) if part.covers(written.step)}
    if len(by) < 2:
        return []
    told = ", ".join(f"{_count(number)} at step {step_text(written.step)}" for number, written in sorted(by.items()))
    return [f"its checkpoints were written by different numbers of processes: {told}"]


# --- another environment ----------------------------------------------------------------------------------


def _environments(state: RunState, part: Part, now: EnvironmentCaptured) -> Iterator[str]:
    environments = [(attempt, attempt.environment) for attempt in part.attempts if attempt.environment]
    for attempt, then in environments:
        pinned = "OMP_NUM_THREADS" in then.variables or _stated(attempt) or _by_launcher(state.started.command)
        for reason in _environment(then, now, pinned=pinned):
            yield reason if len(environments) == 1 else f"{reason} (attempt {attempt.number})"
    for (earlier, before), (later, after) in pairwise(environments):
        if earlier.world.processes == later.world.processes:  # otherwise that explains the rest, and is told
            yield from _between(before, later, after)


def _environment(then: EnvironmentCaptured, now: EnvironmentCaptured, *, pinned: bool) -> Iterator[str]:
    if not pinned:
        yield from _threads(then, now)
    yield from _variables(then, now)
    yield from _instructions(then, now)
    yield from _builds(then, now)
    yield from _accelerators(then, now)
    if then.determinism.get("deterministic_algorithms") is False:
        yield "it was allowed algorithms that are not deterministic: train anew with deterministic ones only"


def _threads(then: EnvironmentCaptured, now: EnvironmentCaptured) -> Iterator[str]:
    """A library that nobody tells otherwise takes as many threads as there are CPUs, and shares out sums by them."""
    before, after = then.determinism.get("default_threads"), now.determinism.get("default_threads")
    if before is None or after is None or before == after or not COMPUTES & then.packages.keys():
        return
    used = then.determinism.get("threads", before)
    if used == before:  # otherwise the program itself has set them
        yield (
            f"nothing pinned its threads: it computed with {before}, one for each CPU that it might use, and here "
            f"it may use {after}: give it {before} (taskset, a container's limit), or pin OMP_NUM_THREADS in a new run"
        )


def _stated(attempt: Attempt) -> bool:
    """Whether the configuration says how many threads to compute with, as that of a recipe always does."""
    determinism = attempt.resolved.config.get("determinism") if attempt.resolved else None
    return isinstance(determinism, dict) and isinstance(determinism.get("threads"), int)


def _by_launcher(command: Sequence[str]) -> bool:
    """Whether torchrun starts the processes: it gives each one thread unless OMP_NUM_THREADS is set."""
    return any(os.path.basename(word) == "torchrun" or word == "torch.distributed.run" for word in command)


def _variables(then: EnvironmentCaptured, now: EnvironmentCaptured) -> Iterator[str]:
    """Those that a replay cannot give back: they are those of the first attempt."""
    for name in sorted(DECISIVE_VARIABLES & (then.variables.keys() | now.variables.keys())):
        before, after = then.variables.get(name, "not set"), now.variables.get(name, "not set")
        if before != after:
            yield f"{name} was {before} and will be {after}"


def _instructions(then: EnvironmentCaptured, now: EnvironmentCaptured) -> Iterator[str]:
    before, after = _chosen_by(then.cpu), _chosen_by(now.cpu)
    if before and after and before != after:
        gone, new = sorted(before - after), sorted(after - before)
        changes = [*(f"-{flag}" for flag in gone), *(f"+{flag}" for flag in new)]
        shown = " ".join(changes[:_SHOWN]) + (" …" if len(changes) > _SHOWN else "")
        yield f"this CPU has other instructions ({shown}), by which libraries choose how they compute"


def _chosen_by(cpu: Mapping[str, object]) -> set[str]:
    flags = cpu.get("flags")
    return {flag for flag in flags if flag.startswith(_INSTRUCTIONS)} if isinstance(flags, list | tuple) else set()


def _builds(then: EnvironmentCaptured, now: EnvironmentCaptured) -> Iterator[str]:
    if now.packages:
        for name in sorted(COMPUTES & then.packages.keys()):
            version, here = then.packages[name], now.packages.get(name, "not installed")
            if version != here:
                yield f"{name} is {here} here and was {version}: pip install '{name}=={version}'"
    before, after = then.libraries.get("torch"), now.libraries.get("torch")
    if isinstance(before, dict) and isinstance(after, dict) and before.get("version") == after.get("version"):
        known = {"git", "cuda", "hip"} & before.keys() & after.keys()
        other = sorted(name for name in known if before[name] != after[name])
        if other:
            yield f"torch {before.get('version')} is another build here ({', '.join(other)})"


def _accelerators(then: EnvironmentCaptured, now: EnvironmentCaptured) -> Iterator[str]:
    before = {str(device.get("name")) for device in then.accelerators}
    after = {str(device.get("name")) for device in now.accelerators}
    if before != after and "accelerators" not in then.failures | now.failures:
        yield f"it had {_some(before)}, and here there is {_some(after)}: replay it on a machine like that one"


def _between(before: EnvironmentCaptured, attempt: Attempt, after: EnvironmentCaptured) -> Iterator[str]:
    """What changed from one attempt to the next: a replay makes all steps in one way."""
    threads = before.determinism.get("threads"), after.determinism.get("threads")
    if None not in threads and threads[0] != threads[1]:
        yield f"attempt {attempt.number} computed with {threads[1]} threads, the one before with {threads[0]}"
    for change in topology_differences(before.topology, after.topology):
        yield f"attempt {attempt.number} was arranged otherwise than the one before: {change}"


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no accelerator"


def _count(processes: int) -> str:
    return f"{processes} process{'es' * (processes != 1)}"
