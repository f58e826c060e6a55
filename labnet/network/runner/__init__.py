"""The runner: a server that runs uploaded model files in child processes."""
