"""The vocabulary of the log: one frozen class per fact, named in the past tense.

No logic lives here. A field is never renamed or removed: a change of a payload raises ``schema_version`` and
adds a step to ``ledger.upcast``, because stored bytes are never rewritten. Digests are lower-case hexadecimal
SHA-256 (FIPS 180-4); times are Unix seconds; sizes are bytes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["identical", "within-tolerance", "diverged", "not-replayable"]
Trigger = Literal["steps", "minutes", "best", "last", "interruption"]
"""Why a checkpoint was written. Only ``steps``, ``best`` and ``last`` come again at the same step in a replay."""
DeviceKind = Literal["cpu", "gpu"]


class Fact(BaseModel):
    """A frozen value. JSON has no NaN or infinities: they travel as the strings "NaN", "Infinity", "-Infinity"."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Event(Fact):
    """A fact that is appended to a stream on its own."""

    type: ClassVar[str]
    """Stable dotted name under which the log keeps this fact; never a class path."""
    schema_version: ClassVar[int] = 1
    durable: ClassVar[bool] = True
    """Whether the call that records it returns only after the fact is committed."""


# --- values that several facts share ---------------------------------------------------------------------------


class Process(Fact):
    """An operating-system process, named so that it cannot be mistaken for a later one with the same pid."""

    host: str
    pid: int
    started: str
    """As ``ledger.processes.start_of`` tells it."""


class World(Fact):
    """The processes that train together, and what launched them."""

    processes: int = 1
    """Of all nodes together."""
    nodes: int = 1
    launcher: str = ""
    """``torchrun``, ``deepspeed``; empty where the one process is started directly."""
    options: tuple[str, ...] = ()
    """Further words for the launcher, as the user gave them: ``--max-restarts=3``."""


class FileDigest(Fact):
    """One file below a root."""

    path: str
    """Relative to the root, with forward slashes."""
    digest: str
    bytes: int


class OmittedFile(Fact):
    """A file of the working tree that was not captured."""

    path: str
    bytes: int
    reason: str


class DataCommit(Fact):
    """Data at one immutable state: enough to fetch exactly these bytes again, or to know that they are gone."""

    uri: str
    """As the user asked for it, without credentials."""
    commit: str
    """The provider's immutable name for this state."""
    path: str
    """Where in that state the data lie; for ``file:`` the absolute path it was read from."""
    digest: str
    """SHA-256 over the manifest of the whole content: every name and every byte."""
    files: int
    bytes: int
    snapshot: bool = False
    """Whether a copy of the content is kept in the ledger's own objects."""
    details: dict[str, Any] = {}
    """What else the provider knows of this state: who committed it, with what message; no credentials."""


class Stored(Fact):
    """A checkpoint that lies, whole and read back, in a checkpoint store."""

    uri: str
    """Where its store keeps it, without credentials."""
    digest: str
    """Of the manifest, and so of every name and byte."""
    bytes: int
    stored_bytes: int
    """What this checkpoint added to its store, after deduplication and compression."""
    files: tuple[FileDigest, ...]
    bases: tuple[str, ...] = ()
    """Digests of the checkpoints that some of its content is stored as the difference to."""


class Check(Fact):
    """One comparison that a replay made."""

    name: str
    expected: str
    actual: str
    bound: float = 0.0
    passed: bool


class Divergence(Fact):
    """The first place where a replay left its original."""

    what: str
    """The metric, tensor, file or status that differs."""
    step: float | None = None
    expected: str
    actual: str


# --- the facts -------------------------------------------------------------------------------------------------


class RunStarted(Event):
    """A run began; first event of its stream."""

    type: ClassVar[str] = "run.started"
    schema_version: ClassVar[int] = 2
    name: str
    kind: Literal["train", "command", "replay"]
    invocation: tuple[str, ...]
    """What the user typed."""
    command: tuple[str, ...]
    """What a replay must launch again, before a launcher wraps it."""
    world: World = World()
    directory: str
    outputs: tuple[str, ...] = ()
    """What the user asked to keep when the command has ended, relative to ``directory``."""
    replay_of: str | None = None
    """The original's UUID."""
    segment: tuple[float | None, float | None] | None = None
    """Of a replay of a part: the step of the checkpoint it goes on from, and the last step it is compared to."""
    seed: int | None = None
    tags: tuple[str, ...] = ()
    project: str | None = None
    user: str | None = None
    process: Process


class CodeCaptured(Event):
    """The exact working tree that the run trained with."""

    type: ClassVar[str] = "code.captured"
    root: str
    """Absolute directory that the tree's paths are relative to."""
    directory: str
    """The working directory, relative to ``root``."""
    repository: str | None
    """URL of the remote, without credentials; None outside git or without one."""
    commit: str | None
    branch: str | None
    dirty: bool
    tree: str
    """Digest of the manifest of the tree, which is itself an object."""
    files: int
    bytes: int
    entry_point: str | None
    python_path: tuple[str, ...] = ()
    """Directories of the tree, relative to ``root``, that Python imported from (editable installs, PYTHONPATH)."""
    omitted: tuple[OmittedFile, ...] = ()


class EnvironmentCaptured(Event):
    """What the run ran on. A later one of the same attempt adds to an earlier one, section by section."""

    type: ClassVar[str] = "environment.captured"
    python: dict[str, str] = {}
    packages: dict[str, str] = {}
    lock: str | None = None
    """Digest of the sorted ``name==version`` lines, which are kept as an object."""
    system: dict[str, Any] = {}
    cpu: dict[str, Any] = {}
    accelerators: tuple[dict[str, Any], ...] = ()
    libraries: dict[str, Any] = {}
    """Builds and versions below the packages: CUDA, cuDNN, NCCL, BLAS …"""
    determinism: dict[str, Any] = {}
    """Whatever decides bits: thread counts, deterministic flags, instruction sets, autocast type."""
    topology: dict[str, Any] = {}
    """How the processes train together.

    ``engine``, ``backend``, ``mesh`` (size of each dimension by name, outermost first) and ``ranks``, a list
    by rank of ``coordinates`` (by dimension), ``device``, ``host`` and ``threads``.
    """
    variables: dict[str, str] = {}
    """Environment variables that matter to training, secrets withheld."""
    failures: dict[str, str] = {}
    """What could not be captured, by plugin or section, and why."""


class ConfigResolved(Event):
    """The whole configuration, defaults and overrides included."""

    type: ClassVar[str] = "config.resolved"
    config: dict[str, Any]
    overrides: tuple[str, ...] = ()
    digest: str
    withheld: tuple[str, ...] = ()
    """Dotted keys whose values were secrets and are not in the log."""
    seed: int | None = None
    """The seed that the program stated itself, where the command that started it could not know it."""


class DataCommitted(Event, DataCommit):
    """The run reads this data, at this commit."""

    type: ClassVar[str] = "data.committed"
    name: str
    role: str
    """What the run uses it for: train, validation, …"""
    provider: str
    provider_version: str


class TrainingResumed(Event):
    """A new attempt went on from a checkpoint, or from the beginning where there was none."""

    type: ClassVar[str] = "training.resumed"
    schema_version: ClassVar[int] = 2
    attempt: int
    step: float | None
    checkpoint: str | None
    """Manifest digest of the checkpoint."""
    uri: str | None
    skipped: tuple[str, ...] = ()
    """Newer checkpoints that were not whole, each with what was wrong."""
    world: World | None = None
    """Where other processes go on, or are launched otherwise, than those of the attempt before; what another number of
    them trains is not promised to be bit for bit what those would have trained."""
    process: Process


class MetricsLogged(Event):
    """Columns of metric values, one row for each call of ``log()``."""

    type: ClassVar[str] = "metrics.logged"
    durable: ClassVar[bool] = False
    step: tuple[int | float, ...]
    time: tuple[float, ...]
    values: dict[str, tuple[float | None, ...]]
    """One column per metric, None where a call did not give that metric."""


class ParametersFingerprinted(Event):
    """Digest of the model's parameters, and of the optimizer's state, at a step."""

    type: ClassVar[str] = "parameters.fingerprinted"
    durable: ClassVar[bool] = False
    step: float
    parameters: str
    optimizer: str | None = None
    tensors: dict[str, str] = {}
    """Digest of each parameter and buffer by name; of each shard by ``name[offset,…]`` where it is sharded."""
    shards: dict[str, str] = {}
    """Digest of all that each rank holds, by rank as text; empty where one process holds everything."""


class CheckpointWritten(Event, Stored):
    """A checkpoint is durable and was read back."""

    type: ClassVar[str] = "checkpoint.written"
    step: float
    attempt: int
    name: str
    """What it is: ``step-500``, ``best_model_step_300``."""
    best: bool = False
    seconds: float
    metrics: dict[str, float] = {}
    holds: tuple[str, ...] = ()
    """What the state holds: model, optimizer, scheduler, rng.torch, data position …"""
    trigger: Trigger = "steps"
    processes: int = 1
    """How many processes trained together: with another number a resumed training is not bit for bit the same."""


class CheckpointDeleted(Event):
    """A checkpoint was removed from its store."""

    type: ClassVar[str] = "checkpoint.deleted"
    step: float
    name: str
    uri: str
    digest: str
    reason: str


class ArtifactWritten(Event):
    """A file that the run produced is kept as an object."""

    type: ClassVar[str] = "artifact.written"
    path: str
    digest: str
    bytes: int


class ConsoleCaptured(Event):
    """What the command printed, both streams in order of arrival, is kept as an object."""

    type: ClassVar[str] = "console.captured"
    digest: str
    bytes: int


class GpuTimeUsed(Event):
    """Time for which one rank held one device; of a CPU it is recorded as such and never counted as GPU time."""

    type: ClassVar[str] = "gpu_time.used"
    durable: ClassVar[bool] = False
    started_at: float
    seconds: float
    """Wall time for which the device was held since ``started_at``."""
    step: float | None = None
    """The last step that was made in this time; None before the first."""
    kind: DeviceKind
    index: int
    """Of the device on its host."""
    model: str
    uuid: str | None = None
    host: str
    utilisation: float | None = None
    """Mean share of the time in which the device computed, in [0, 1]; None where that cannot be measured."""
    memory_bytes: int | None = None
    """Most memory that was in use on the device by this process."""
    energy_joules: float | None = None


class RunCompleted(Event):
    """The run ended as it should."""

    type: ClassVar[str] = "run.completed"
    step: float | None
    metrics: dict[str, float] = {}
    """The last value of each metric."""
    exit_code: int = 0


class RunFailed(Event):
    """The run ended by a failure of its own."""

    type: ClassVar[str] = "run.failed"
    exception: str
    traceback: str | None = None
    exit_code: int | None = None
    step: float | None = None


class RunInterrupted(Event):
    """The run was stopped from outside."""

    type: ClassVar[str] = "run.interrupted"
    signal: str
    step: float | None = None


class ReplayCompared(Event):
    """A replay was judged; recorded on both runs' streams."""

    type: ClassVar[str] = "replay.compared"
    original: str
    replay: str | None
    """None where the verdict fell before anything ran."""
    verdict: Verdict
    checks: tuple[Check, ...] = ()
    first_divergence: Divergence | None = None
    differences: tuple[str, ...] = ()
    """What differs between the two environments, most important first."""
    reasons: tuple[str, ...] = ()
    """Why the run is not replayable."""
    inexact: tuple[str, ...] = ()
    """Why the same bits were not to be expected, as it was said before the replay ran."""
    segment: tuple[float | None, float | None] | None = None
    """As ``RunStarted`` has it; also of a replay that was refused."""


NOT_STORED: Final = "checkpoint not stored"
"""A tag: says that the run has fewer checkpoints than it took."""


class RunAnnotated(Event):
    """Somebody said something about the run."""

    type: ClassVar[str] = "run.annotated"
    text: str
    tags: tuple[str, ...] = ()


class LogSealed(Event):
    """Somebody signed the log as it was; on the ledger's own stream."""

    type: ClassVar[str] = "log.sealed"
    origin: str
    """Which log it is: ``training-ledger/`` and the id of its first event."""
    size: int
    """How many events were sealed: global positions 1 … ``size``."""
    root: str
    """Root of the Merkle tree (RFC 9162) over the digests of these events."""
    key: str
    """The public key, as C2SP's signed-note writes it: name, key id and key."""
    signature: str
    """Ed25519 (RFC 8032) over origin, size and root as C2SP's tlog-checkpoint writes them; base64."""


class UnknownEvent(Fact):
    """A fact of a type or schema version that this version of Ledger does not know; kept, never an error."""

    type: str
    schema_version: int
    payload: dict[str, Any]


CORE_EVENTS: Final[tuple[type[Event], ...]] = (
    RunStarted,
    CodeCaptured,
    EnvironmentCaptured,
    ConfigResolved,
    DataCommitted,
    TrainingResumed,
    MetricsLogged,
    ParametersFingerprinted,
    CheckpointWritten,
    CheckpointDeleted,
    ArtifactWritten,
    ConsoleCaptured,
    GpuTimeUsed,
    RunCompleted,
    RunFailed,
    RunInterrupted,
    ReplayCompared,
    RunAnnotated,
    LogSealed,
)
