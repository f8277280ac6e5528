"""The rest of a PC: keyboard controller, clock, ports of a chipset, and where they sit."""
