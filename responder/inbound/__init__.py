"""The SMTP server: sockets, sessions, limits and the texts of its replies."""
