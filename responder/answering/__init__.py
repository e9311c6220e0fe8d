"""The second stage: a mail that was received gets its answer, or the reason why it has none."""
