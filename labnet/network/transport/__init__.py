"""Connections and HTTP/1.1 messages: bytes in and out, no meaning."""
