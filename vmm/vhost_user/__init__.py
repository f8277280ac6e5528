"""vhost-user: virtio devices in processes of their own, at the ends of Unix sockets.

`python -m vmm.vhost_user` serves a VirtioDevice to whoever is the front end: a busy
device doesn't share an interpreter with vCPUs, and QEMU can use it, too (backend.py).
VhostUserDevice is one of a machine's that whoever is the backend serves, be it ours or
a program such as virtiofsd (device.py, front_end.py, program.py).
Source: QEMU, docs/interop/vhost-user.rst, whose names these are.
"""
