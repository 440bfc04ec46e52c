"""Other trackers, kept up to date from the log: a cursor each, batches, retries, and the check that both are equal."""
