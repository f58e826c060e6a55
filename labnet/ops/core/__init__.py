"""The declaration and dispatch of ops."""
