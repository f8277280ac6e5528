"""The agent that runs commands in a guest for us: its channel, and who uses it."""
