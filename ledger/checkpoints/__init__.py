"""When checkpoints are written, and which of them stay."""

from ledger.checkpoints.background import BackgroundKeeper
from ledger.checkpoints.keeper import Keeper
from ledger.checkpoints.policy import Due, Policy, Superseded

__all__ = ["BackgroundKeeper", "Due", "Keeper", "Policy", "Superseded"]
