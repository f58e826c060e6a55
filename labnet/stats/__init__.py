"""Counters, histograms and curves: plain numbers, no I/O, no tensors, no Tornado."""

from labnet.stats.curve import Curve
from labnet.stats.routes import RouteStatistics

__all__ = ["Curve", "RouteStatistics"]
