"""KVM's three objects (system, VM, vCPU) as Python objects over ioctl."""
