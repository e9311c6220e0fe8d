"""What a plugin author sees, and what finds, builds and contains agents."""
