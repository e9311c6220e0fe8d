"""Who lets users in (RFC 4954): mechanisms, the file of users, and what a failure costs."""
