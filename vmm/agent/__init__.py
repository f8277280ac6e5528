"""What runs commands inside a guest for the host: the agent's channel, and its users."""
