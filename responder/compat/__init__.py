"""What old programs import: stand-ins for modules that the standard library no longer has, on our own sessions."""
