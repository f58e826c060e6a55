"""What both sides of a connection agree on: headers, keys, digests. No I/O."""
