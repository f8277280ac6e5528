"""Looking at a guest that stands: names for addresses, registers, stack."""
