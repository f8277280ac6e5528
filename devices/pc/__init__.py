"""The rest of a PC: keyboard controller, clock, a chipset's ports, where they sit."""
