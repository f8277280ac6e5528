"""Where the time of a run goes: recorded while it runs, reported at its end."""
