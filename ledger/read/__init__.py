"""Facts coming out: pure folds over the log."""
