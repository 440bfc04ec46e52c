"""The trainer that comes with Ledger.

Recipes in TOML, tasks that users bring, steps that repeat bit for bit.
"""
