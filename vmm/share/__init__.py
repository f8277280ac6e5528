"""Shares: directories of the host's in the guest."""
