"""scripts/bench: this VMM, the C limit and its peers, measured side by side."""
