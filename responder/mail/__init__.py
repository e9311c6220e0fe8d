"""All that is known of mail: pure, synchronous, no I/O. What it says depends on what it is given."""
