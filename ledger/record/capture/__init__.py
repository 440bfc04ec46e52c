"""What Ledger takes down around a run: its code, its environment, its console; and what it withholds."""
