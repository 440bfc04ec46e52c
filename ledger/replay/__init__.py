"""A run, rebuilt and run again: fold, plan, execute, compare, verdict."""
