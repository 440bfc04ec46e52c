"""The provenance of a model as an in-toto Statement v1 with a SLSA Provenance v1 predicate. Pure.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance. What the
fields hold is documented in docs/audit.md, which defines ``BUILD_TYPE``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from ledger.codec import canonical_digest, canonical_json
from ledger.errors import PluginUnavailable, UsageError
from ledger.events import CheckpointWritten
from ledger.objects.manifest import SINGLE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ledger.events import ArtifactWritten, CodeCaptured, ConsoleCaptured, DataCommitted, ReplayCompared
    from ledger.objects.manifest import Manifest
    from ledger.read.lineage import Ancestry, Descent, Origin
    from ledger.read.state import RunState

BUILD_TYPE: Final = "tag:training-ledger,2026:training/v1"
BUILDER: Final = "tag:training-ledger,2026:recorder/v1"
PREDICATE: Final = "https://slsa.dev/provenance/v1"
MANIFEST: Final = "trainingLedgerManifest"
"""Name of the digest of a whole tree: SHA-256 of its manifest, which is canonical JSON."""
_EXACT: Final = 2**53
"""JSON's readers, and protobuf's Struct, keep whole numbers below this apart."""

Resource = dict[str, Any]
"""A ResourceDescriptor."""


def require_library() -> None:
    """Raise ``PluginUnavailable``, with the mend, where the statement cannot be made."""
    try:
        import in_toto_attestation.v1.statement  # noqa: F401
    except ImportError as error:
        raise PluginUnavailable(
            "a provenance statement needs the in-toto-attestation package", mend="pip install 'training-ledger[audit]'"
        ) from error


def statement(ancestry: Ancestry, subjects: Mapping[str, str], version: str) -> bytes:
    """The statement about ``subjects``, SHA-256 by the name of the file, that the first run of ``ancestry`` wrote.

    ``version`` is that of Ledger as it recorded the run. Raises ``UsageError`` where there is no file to speak of.
    """
    from google.protobuf.json_format import MessageToDict, ParseDict
    from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement

    state = next(iter(ancestry.runs.values()))
    if not subjects:
        raise UsageError(f"{state.name} wrote no file that a statement could be about", mend="name a checkpoint")
    # Through the schema and back: what it does not know, or holds otherwise, is refused and not carried along.
    predicate = MessageToDict(ParseDict(_predicate(ancestry, state, version), Provenance()))
    files = [ResourceDescriptor(name=name, digest={"sha256": digest}).pb for name, digest in sorted(subjects.items())]
    made = Statement(files, PREDICATE, predicate)
    made.validate()
    return orjson.dumps(_whole(MessageToDict(made.pb)), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"


def subjects_of(
    state: RunState, origins: Sequence[Origin], asked: str | None, look: Callable[[str], Manifest]
) -> dict[str, str]:
    """SHA-256 by name of the files that a statement is about.

    The one file that was asked about, which may be called ``asked`` by now, all files of the checkpoint or artifact, or
    those of all checkpoints and artifacts that a run has. ``look`` gives an artifact's manifest by its digest.
    """
    found = next((origin for origin in origins if origin.run_id == state.id), None)
    if found and found.file is not None:
        return {asked or _named(found.file, found.name): dict(_files(found.written, look))[found.file]}
    if found:
        return {_named(path, found.name): digest for path, digest in _files(found.written, look)}
    every: list[tuple[str, CheckpointWritten | ArtifactWritten]]
    every = [*((c.name, c) for c in state.checkpoints), *state.artifacts.items()]
    return {
        name if path == SINGLE_FILE else f"{name}/{path}": digest
        for name, written in every
        for path, digest in _files(written, look)
    }


def _files(written: CheckpointWritten | ArtifactWritten, look: Callable[[str], Manifest]) -> Iterator[tuple[str, str]]:
    if isinstance(written, CheckpointWritten):
        yield from ((file.path, file.digest) for file in written.files)
    else:
        yield from ((e.path, e.digest) for e in look(written.digest).entries if e.mode != "directory")


def _named(path: str, whole: str) -> str:
    return whole if path == SINGLE_FILE else path


def _predicate(ancestry: Ancestry, state: RunState, version: str) -> dict[str, Any]:
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _exact(_asked(state)),
            "internalParameters": _exact(_happened(state)),
            "resolvedDependencies": list(_dependencies(ancestry, state)),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"training-ledger": version}},
            "metadata": {
                "invocationId": f"urn:uuid:{state.id}",
                "startedOn": state.started_at,
                **({"finishedOn": state.attempt.ended_at} if state.attempt.ended_at else {}),
            },
            "byproducts": [*map(_verdict, state.verdicts), *_consoles(state.consoles)],
        },
    }


def _asked(state: RunState) -> dict[str, Any]:
    """What whoever started the run decided."""
    started = state.started
    return {
        "command": started.command,
        "invocation": started.invocation,
        "config": state.config,
        "overrides": state.resolved.overrides if state.resolved else (),
        "seed": state.seed,
        "data": {name: data.uri for name, data in state.data.items()},
        "project": started.project,
        "tags": state.tags,
    }


def _happened(state: RunState) -> dict[str, Any]:
    """What the run came upon: who, where, on what, in how many attempts."""
    environment = state.environment
    kept = ("python", "system", "cpu", "accelerators", "libraries", "determinism", "topology", "variables", "failures")
    return {
        "run": state.name,
        "status": state.status,
        "user": state.started.user,
        "host": state.started.process.host,
        "directory": state.started.directory,
        "replayOf": state.started.replay_of,
        "processes": state.world.processes,
        "attempts": [
            {
                "number": attempt.number,
                "startedOn": attempt.started_at,
                "finishedOn": attempt.ended_at,
                "fromStep": attempt.resumed.step if attempt.resumed else None,
            }
            for attempt in state.attempts
        ],
        "environment": {name: getattr(environment, name) for name in kept} if environment else None,
    }


def _dependencies(ancestry: Ancestry, state: RunState) -> Iterator[Resource]:
    if state.code:
        yield _code(state.code)
    for data in state.data.values():
        yield _data(data)
    if state.environment and state.environment.lock:
        yield {"name": "python-packages", "digest": {"sha256": state.environment.lock}}
    yield from map(_base, ancestry.descents)


def _code(code: CodeCaptured) -> Resource:
    """The working tree; git's commit names it only where nothing was changed since."""
    commit = {"gitCommit": code.commit} if code.commit and not code.dirty else {}
    return _without_none(
        {
            "name": "code",
            "uri": f"git+{code.repository}@{code.commit}" if code.repository and code.commit else None,
            "digest": {MANIFEST: code.tree, **commit},
            "annotations": {"commit": code.commit, "branch": code.branch, "changed": code.dirty},
        }
    )


def _data(data: DataCommitted) -> Resource:
    facts: dict[str, Any] = {"commit": data.commit, "path": data.path, "role": data.role}
    facts |= {"provider": f"{data.provider} {data.provider_version}", "files": data.files, "bytes": data.bytes}
    return {
        "name": f"data/{data.name}",
        "uri": data.uri,
        "digest": {MANIFEST: data.digest},
        "annotations": _exact(facts),
    }


def _base(descent: Descent) -> Resource:
    """A checkpoint or artifact that the data of a run hold."""
    origin, use = descent.origin, descent.use
    checkpoint = origin.checkpoint
    return _without_none(
        {
            "name": f"base/{origin.run}/{origin.name}",
            "uri": checkpoint.uri if checkpoint else None,
            "digest": {MANIFEST: origin.written.digest},
            "annotations": {
                "wroteIt": f"urn:uuid:{origin.run_id}",
                "readBy": f"urn:uuid:{use.run_id}",
                "readAs": f"data/{use.data.name}",
                "files": list(use.files),
            },
        }
    )


def _verdict(verdict: ReplayCompared) -> Resource:
    facts = verdict.model_dump(mode="json")
    return {
        "name": f"verdict/{verdict.replay or 'not-replayable'}",
        "digest": {"sha256": canonical_digest(facts)},
        "content": _base64(canonical_json(facts)),
        "mediaType": "application/json",
        "annotations": {"verdict": verdict.verdict} | ({"segment": list(verdict.segment)} if verdict.segment else {}),
    }


def _consoles(consoles: Iterable[ConsoleCaptured]) -> Iterator[Resource]:
    for number, console in enumerate(consoles, 1):
        yield {"name": f"console/{number}", "digest": {"sha256": console.digest}}


def _base64(content: bytes) -> str:
    from base64 import b64encode

    return b64encode(content).decode()


def _without_none(resource: Resource) -> Resource:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in resource.items()
        if value is not None
    }


def _whole(value: Any) -> Any:
    """``value`` with whole numbers as such: a Struct holds all of them as floats."""
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _exact(value: Any) -> Any:
    """``value`` as a Struct holds it without loss: other numbers, and whole ones that are too large, as text."""
    if isinstance(value, dict):
        return {str(key): _exact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT:
        return str(value)
    return value
