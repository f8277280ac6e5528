"""Signs that a guest has ended without a word to us: last words, memory, silence."""
