"""A PCI bus and what derives from its devices; no host bridge, which is a PC's."""
