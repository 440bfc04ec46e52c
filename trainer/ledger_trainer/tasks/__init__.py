"""Tasks that come with Ledger, each on real data from PyPI. Importing one does not import torch."""
