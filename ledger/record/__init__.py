"""Facts going in: the run, the recorded command, and what is captured around them."""
