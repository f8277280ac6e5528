"""What scripts/build-guest does: kernels, init, initramfs and bare guests.

`cli` chooses targets, `target` decides what is stale, the other modules make one
kind of thing each. Standard library only: it runs before anything is installed.
"""
