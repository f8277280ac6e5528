"""What ends a benchmark before its time."""

from __future__ import annotations


class BenchError(Exception):
    """Bad usage, or a host on which nothing can be measured; one line, exit 2."""
