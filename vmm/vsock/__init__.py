"""The host's side of virtio-vsock: sockets of Python, and unix sockets for programs."""
