"""The host's side of ttyS0: where its bytes go, and where they come from."""
