"""What sets the project up, builds, runs and tests it."""
