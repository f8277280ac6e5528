"""A PCI bus, what derives from its devices, and the host bridge of a PC."""
