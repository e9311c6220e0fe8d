"""DKIM signatures for what leaves (RFC 6376, RFC 8463): keys in their folder, and the fields that they sign."""
