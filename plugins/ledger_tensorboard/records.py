"""What goes into event files, and what it says when it is read back."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

from ledger.hooks.pages import Page, Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    from ledger.hooks.pages import Scalar

CONFIG: Final = "parameters/"
TAG: Final = "tag/"
_HPARAMS: Final = "_hparams_/"
_FENCE: Final = ("```\n", "\n```")


def scalars(points: Iterable[Point]) -> Iterator[Event]:
    """Values of metrics; those that were logged together are one record."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    for (step, time), together in groupby(points, lambda point: (point.step, point.time)):
        # Not as a tensor of doubles: TensorBoard's usual reader, in Rust, shows nothing of those.
        values = [Summary.Value(tag=point.metric, simple_value=point.value) for point in together]
        yield Event(wall_time=time, step=int(step), summary=Summary(value=values))


def texts(page: Page, step: int, time: float) -> Iterator[Event]:
    """Configuration, fields and tags; the newest of a name is the one of the highest step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    named = {
        **{CONFIG + key: value for key, value in page.config.items()},
        **page.fields,
        **{TAG + tag: tag for tag in page.tags},
    }
    if named:
        values = [_text(name, str(value)) for name, value in named.items()]
        yield Event(wall_time=time, step=step, summary=Summary(value=values))


def hparams(config: Mapping[str, Scalar], run_id: str, time: float) -> Iterator[Event]:
    """The configuration for the page HPARAMS, which takes the first of a run and no later one."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    if config:
        yield Event(wall_time=time, summary=hparams_pb(dict(config), trial_id=run_id, start_time_secs=time))


def page_in(accumulator: EventAccumulator) -> Page:
    """Configuration, fields and tags, as TensorBoard's own reader gives them."""
    newest = {
        tag: _unfenced(accumulator.Tensors(tag)[-1].tensor_proto.string_val[0].decode())
        for tag in accumulator.Tags()["tensors"]
        if not tag.startswith(_HPARAMS)
    }
    return Page(
        config={tag.removeprefix(CONFIG): text for tag, text in newest.items() if tag.startswith(CONFIG)},
        fields={tag: text for tag, text in newest.items() if not tag.startswith((CONFIG, TAG))},
        tags=tuple(text for tag, text in newest.items() if tag.startswith(TAG)),
    )


def points_in(accumulator: EventAccumulator, attempt: int) -> Iterator[Point]:
    """Values of metrics, the same way."""
    for tag in accumulator.Tags()["scalars"]:
        for each in accumulator.Scalars(tag):
            yield Point(tag, each.step, each.wall_time, each.value, attempt)


def _text(name: str, text: str) -> Summary.Value:
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    # TensorBoard reads Markdown, which would run the lines of a traceback together.
    shown = _FENCE[0] + text + _FENCE[1] if "\n" in text else text
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"), data_class=DATA_CLASS_TENSOR)
    return Summary.Value(tag=name, metadata=metadata, tensor=TensorProto(dtype=DT_STRING, string_val=[shown.encode()]))


def _unfenced(text: str) -> str:
    start, end = _FENCE
    return text[len(start) : -len(end)] if text.startswith(start) else text
