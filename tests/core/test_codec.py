from __future__ import annotations

import hashlib
import json
import math
import time
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import (
    GENESIS,
    Codec,
    Metadata,
    canonical_digest,
    canonical_json,
    chain_digest,
    metadata_json,
    new_id,
)
from ledger.errors import UsageError
from ledger.events import CORE_EVENTS, ConfigResolved, Event, MetricsLogged, RunAnnotated, RunStarted, UnknownEvent
from ledger.testing.builders import run_started

WRITER = Metadata(writer="test", host="host", pid=1, version="0", rank=0, attempt=1)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(allow_nan=True, allow_infinity=True)
integers = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


@st.composite
def metrics(draw: st.DrawFn) -> MetricsLogged:
    rows = draw(st.integers(0, 5))
    column = st.tuples(*[st.none() | numbers] * rows)
    return MetricsLogged(
        step=draw(st.tuples(*[st.integers(0, 2**53) | st.floats(0, 1e9)] * rows)),
        time=draw(st.tuples(*[st.floats(0, 4e9)] * rows)),
        values=dict(sorted(draw(st.dictionaries(texts, column, max_size=3)).items())),
    )


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec()


# --- events


@given(event=metrics())
def test_metrics_come_back_bit_for_bit(codec: Codec, event: MetricsLogged) -> None:
    draft = codec.draft(event, WRITER)
    decoded = codec.decode(draft.type, draft.schema_version, draft.payload)
    assert isinstance(decoded, MetricsLogged)
    # repr, and not ==, since NaN differs from itself, and -0.0 equals 0.0.
    assert repr(decoded) == repr(event)
    assert codec.draft(decoded, WRITER).payload == draft.payload


@pytest.mark.parametrize("event", CORE_EVENTS, ids=lambda event: event.type)
@given(data=st.data())
def test_every_core_event_comes_back(codec: Codec, event: type[Event], data: st.DataObject) -> None:
    original = data.draw(st.builds(event, **{name: _values(field) for name, field in event.model_fields.items()}))
    draft = codec.draft(original, WRITER)
    assert (draft.type, draft.schema_version) == (event.type, event.schema_version)
    assert codec.decode(draft.type, draft.schema_version, draft.payload) == original


def _values(field: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, kept to what the log promises to keep: JSON with 64-bit integers."""
    if field.annotation == dict[str, Any]:
        return st.dictionaries(texts, values, max_size=3)
    if field.annotation == tuple[dict[str, Any], ...]:
        return st.lists(st.dictionaries(texts, values, max_size=3), max_size=2).map(tuple)
    return _of(field.annotation)


def _of(annotation: Any) -> st.SearchStrategy[Any]:
    with_limits = {str: texts, int: integers, float: st.floats(allow_nan=False)}
    return with_limits[annotation] if annotation in with_limits else st.from_type(annotation)


st.register_type_strategy(str, texts)
st.register_type_strategy(int, integers)
st.register_type_strategy(float, st.floats(allow_nan=False))


@given(config=st.dictionaries(texts, values, max_size=4))
def test_a_config_comes_back(codec: Codec, config: dict[str, Any]) -> None:
    event = ConfigResolved(config=config, digest="d")
    draft = codec.draft(event, WRITER)
    decoded = codec.decode(draft.type, draft.schema_version, draft.payload)
    assert isinstance(decoded, ConfigResolved)
    assert repr(_sorted(decoded.config)) == repr(_sorted(config)), "integers stay integers, 1.0 stays 1.0"


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, "\udcff", object()], ids=["large", "small", "surrogate", "object"]
)
def test_a_value_that_the_log_cannot_keep_is_refused(codec: Codec, value: object) -> None:
    with pytest.raises(UsageError, match=r"config\.resolved") as refused:
        codec.draft(ConfigResolved(config={"key": value}, digest="d"), WRITER)
    assert refused.value.mend


def test_a_payload_has_one_form_only(codec: Codec) -> None:
    one = ConfigResolved(config={"b": {"y": 1, "x": 2}, "a": 1.0}, digest="d")
    two = ConfigResolved(config={"a": 1.0, "b": {"x": 2, "y": 1}}, digest="d")
    assert codec.draft(one, WRITER).payload == codec.draft(two, WRITER).payload
    assert codec.draft(one, WRITER).payload == (
        b'{"config":{"a":1.0,"b":{"x":2,"y":1}},"digest":"d","overrides":[],"seed":null,"withheld":[]}'
    )


def test_what_json_lacks_is_written_as_strings(codec: Codec) -> None:
    event = MetricsLogged(step=(1,), time=(0.0,), values={"x": (math.nan,), "y": (math.inf,), "z": (-math.inf,)})
    payload = orjson.loads(codec.draft(event, WRITER).payload)
    assert payload["values"] == {"x": ["NaN"], "y": ["Infinity"], "z": ["-Infinity"]}


@given(payload=st.dictionaries(texts, values, max_size=4), name=texts.map("plugin.{}".format))
def test_a_type_from_the_future_is_kept(codec: Codec, payload: dict[str, Any], name: str) -> None:
    stored = canonical_json(payload)
    assert codec.decode(name, 1, stored) == UnknownEvent(type=name, schema_version=1, payload=payload)


def test_a_schema_version_from_the_future_is_kept(codec: Codec) -> None:
    decoded = codec.decode("run.annotated", 2, b'{"words":["a","b"]}')
    assert decoded == UnknownEvent(type="run.annotated", schema_version=2, payload={"words": ["a", "b"]})


def test_a_run_that_was_recorded_with_its_process_named_by_a_time_is_read(codec: Codec) -> None:
    event = run_started()
    payload = orjson.loads(codec.draft(event, WRITER).payload)
    payload["process"]["started"] = 1767225600.25
    read = codec.decode("run.started", 1, canonical_json(payload))
    assert isinstance(read, RunStarted)
    assert read == event.model_copy(update={"process": event.process.model_copy(update={"started": "1767225600.25"})})


def test_a_plugin_registers_events_of_its_own() -> None:
    class Happened(Event):
        type: ClassVar[str] = "myplugin.happened"
        what: str

    draft = Codec(lambda: [Happened]).draft(Happened(what="it"), WRITER)
    assert Codec(lambda: [Happened]).decode(draft.type, 1, draft.payload) == Happened(what="it")
    assert isinstance(Codec().decode(draft.type, 1, draft.payload), UnknownEvent)


def test_a_type_that_is_taken_is_refused() -> None:
    class Annotated(Event):
        type: ClassVar[str] = "run.annotated"

    with pytest.raises(UsageError, match=r"run\.annotated"):
        Codec(lambda: [Annotated]).draft(Annotated(), WRITER)


def test_core_types_are_unique_dotted_names() -> None:
    types = [event.type for event in CORE_EVENTS]
    assert len(set(types)) == len(types)
    assert all(name == name.lower() and name.count(".") == 1 for name in types)


def test_a_draft_keeps_the_event_id_that_it_is_given(codec: Codec) -> None:
    event = RunAnnotated(text="")
    assert codec.draft(event, WRITER, event_id="x").event_id == "x"
    assert codec.draft(event, WRITER).event_id != codec.draft(event, WRITER).event_id


# --- canonical JSON


def _shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(value)}
    return [_shuffled(v) for v in value] if isinstance(value, list) else value


@given(value=values)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_json(_shuffled(value)) == canonical_json(value)
    assert canonical_digest(_shuffled(value)) == hashlib.sha256(canonical_json(value)).hexdigest()


@given(value=values)
def test_canonical_json_keeps_every_value(value: Any) -> None:
    encoded = canonical_json(value)
    assert repr(_sorted(json.loads(encoded))) == repr(_sorted(value))
    assert canonical_json(orjson.loads(encoded)) == encoded


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(v) for v in value] if isinstance(value, list) else value


def test_metadata_is_canonical() -> None:
    assert metadata_json(WRITER) == (b'{"attempt":1,"host":"host","pid":1,"rank":0,"version":"0","writer":"test"}')


# --- digests and identities


FIELDS: dict[str, Any] = {
    "stream": "run-x",
    "position": 0,
    "event_id": "id",
    "type": "run.annotated",
    "schema_version": 1,
    "payload": b'{"tags":[],"text":"hi"}',
    "metadata": b"{}",
    "recorded_at": "2026-01-01T00:00:00.000000Z",
}


def test_a_digest_is_what_the_contract_says() -> None:
    row = (
        '{"event_id":"id","metadata":{},"payload":{"tags":[],"text":"hi"},"position":0,'
        '"recorded_at":"2026-01-01T00:00:00.000000Z","schema_version":1,"stream":"run-x","type":"run.annotated"}'
    )
    assert chain_digest(GENESIS, **FIELDS) == hashlib.sha256(("0" * 64 + row).encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"stream": "run-y"},
        {"position": 1},
        {"event_id": "other"},
        {"type": "run.failed"},
        {"schema_version": 2},
        {"payload": b'{"tags":[],"text":"ho"}'},
        {"payload": b'{"tags":[], "text":"hi"}'},
        {"metadata": b'{"rank":1}'},
        {"recorded_at": "2026-01-01T00:00:00.000001Z"},
    ],
    ids=str,
)
def test_a_digest_covers_every_field(change: dict[str, Any]) -> None:
    assert chain_digest(GENESIS, **FIELDS | change) != chain_digest(GENESIS, **FIELDS)
    assert chain_digest("1" * 64, **FIELDS) != chain_digest(GENESIS, **FIELDS)


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    first = new_id()
    time.sleep(0.002)
    second = new_id()
    assert UUID(first).version == UUID(second).version == 7
    assert first < second
    made = datetime.fromtimestamp((UUID(first).int >> 80) / 1000, UTC)
    assert abs((datetime.now(UTC) - made).total_seconds()) < 5
