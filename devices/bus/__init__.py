"""The buses: who is asked for an address, and who gets which resources."""
