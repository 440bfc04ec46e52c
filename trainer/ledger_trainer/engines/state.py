"""Model and optimizer as tensors by name, and which part of each is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Part(NamedTuple):
    """What one process holds of a tensor."""

    tensor: Tensor
    """The values here, on their device."""
    offsets: tuple[int, ...]
    """Where they begin in the whole tensor."""
    whole: torch.Size
    """Shape of the whole tensor."""
    cut: frozenset[str]
    """Dimensions of the mesh over which the whole is split; over all others it is replicated."""

    @property
    def here(self) -> bool:
        """Whether there is any of it: where a tensor has fewer rows than processes, some have none."""
        return self.tensor.numel() > 0 or self.whole.numel() == 0

    def named(self, name: str) -> str:
        """``name`` where this is the whole tensor, else ``name[0,128]``."""
        if self.tensor.shape == self.whole:
            return name
        return f"{name}[{','.join(map(str, self.offsets))}]"


def whole(tensor: Tensor) -> Part:
    """A tensor that is here as a whole."""
    return Part(tensor.detach(), (0,) * tensor.dim(), tensor.shape, frozenset())


class TrainingState:
    """The tensors of a model and its optimizer by fully qualified name; a tied one under its first name only."""

    def __init__(self, model: nn.Module, make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        # Now and once: at other times FSDP may have put whole parameters in place of the parts that are trained.
        self._parameters = dict(model.named_parameters())
        self._persistent = frozenset(model.state_dict())
        self._model = model
        self._make = make
        self.optimizer = make(model)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Parameters, frozen ones included."""
        return self._parameters

    def buffers(self) -> dict[str, Tensor]:
        """Buffers that belong to the state."""
        return {name: buffer for name, buffer in self._model.named_buffers() if name in self._persistent}

    def model(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return {**self._parameters, **self.buffers()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizer keeps for each parameter, as ``<parameter>.<what>``."""
        return {
            f"{name}.{what}": value
            for name, parameter in self._parameters.items()
            for what, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def optimizer_kinds(self) -> dict[str, Tensor]:
        """What this optimizer keeps for a parameter of [2, 3]: found by asking one of the same make."""
        probe = nn.Module()
        device = next(iter(self._parameters.values())).device
        probe.weight = nn.Parameter(torch.zeros(2, 3, device=device))
        probe.weight.grad = torch.zeros_like(probe.weight)
        optimizer = self._make(probe)
        optimizer.step()
        return {what: value for what, value in optimizer.state[probe.weight].items() if isinstance(value, Tensor)}

    def fresh_optimizer_state(self, keeps: Mapping[str, set[str]]) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Empty state for what ``keeps`` names by parameter, laid out as the optimizer itself would."""
        kinds = self.optimizer_kinds()
        return {
            parameter: {
                what: torch.zeros_like(parameter, requires_grad=False)
                if kinds[what].dim()
                else torch.zeros_like(kinds[what])
                for what in sorted(keeps[name])
            }
            for name, parameter in self._parameters.items()
            if name in keeps
        }

    def replace_optimizer_state(self, state: Mapping[nn.Parameter, Mapping[str, Tensor]]) -> None:
        """Let the optimizer go on from ``state``."""
        self.optimizer.state.clear()
        for parameter, values in state.items():
            self.optimizer.state[parameter] = dict(values)
