"""The sockets that clients come by, and what stands before a session: proxies, descriptors, the service manager."""
