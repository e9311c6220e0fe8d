"""Agents in worker processes of their own: the server's side (pool, spawn, links), the wire (frames, passage), the processes."""
