"""Virtio: rings in guest memory, devices that answer them, and their transports.

Source: Virtual I/O Device (VIRTIO) Version 1.3, whose names these are.
"""
