"""Waiting for text of a guest: patterns, what they may cost, and what was kept."""
