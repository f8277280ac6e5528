"""Disks: files and block devices of the host's, and overlays that keep them clean."""
