"""One machine from power-on to its result."""

from .machine import Machine

__all__ = ["Machine"]
