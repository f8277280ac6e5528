"""The 16550A UART."""

from .uart import Serial

__all__ = ["Serial"]
