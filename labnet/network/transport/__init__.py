"""Transport: connections and HTTP/1.1 messages, independent of their meaning."""
