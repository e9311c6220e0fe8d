"""The third stage: what leaves, whom it may be sent to at what pace, and who is told what became of it."""
