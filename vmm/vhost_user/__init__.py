"""vhost-user: a virtio device in a process of its own, at the end of a Unix socket.

`python -m vmm.vhost_user` serves a VirtioDevice to whoever is the front end: a busy
device doesn't share an interpreter with vCPUs, and QEMU can use it, too.
Source: QEMU, docs/interop/vhost-user.rst, whose names these are.
"""
