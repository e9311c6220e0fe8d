"""What one client may cost: counters, address lists, and the octets of all messages together."""
