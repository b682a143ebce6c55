"""What the tests ask about processes that they have started."""

from pathlib import Path


def runs(pid):
    """Whether a process is there and has not ended: one that nobody has waited for yet is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
