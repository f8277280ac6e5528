"""The command `vmm`: all that prints for people."""
