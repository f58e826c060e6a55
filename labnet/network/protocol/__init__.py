"""The protocol between client and server: headers, keys, digests. No I/O."""
