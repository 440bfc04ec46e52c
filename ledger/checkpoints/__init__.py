"""When checkpoints are written, and which of them stay."""

from ledger.checkpoints.keeper import Due, Keeper, Policy, Superseded

__all__ = ["Due", "Keeper", "Policy", "Superseded"]
