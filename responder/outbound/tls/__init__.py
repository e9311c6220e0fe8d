"""What a connection must have before a mail may pass: TLS policy of destinations, and certificates held against it."""
