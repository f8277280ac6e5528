"""What we do inside a running guest: a command, its files, its output."""
