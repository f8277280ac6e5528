"""What ARM machines have."""
