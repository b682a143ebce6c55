"""One measure a file; see `vlv.evaluation.interface`."""
