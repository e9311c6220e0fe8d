"""The ways out: hosts found, connections kept, one session per message, and what became of each recipient."""
