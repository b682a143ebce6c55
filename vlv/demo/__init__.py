"""A captioner and its frozen decoder on a web page: what `vlv demo` shows."""
