"""Models that compute elsewhere than on the CPU, eagerly: wrapped so that they can be served like others."""
