"""The Open Inference Protocol, version 2, for served models."""
