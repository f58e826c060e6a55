"""Counters, histograms, curves and the cost of ops: plain numbers, no I/O, no tensors, no Tornado."""

from labnet.stats.clients import Clients, Rate
from labnet.stats.collecting import collect, disable, enable, flush
from labnet.stats.curve import Curve
from labnet.stats.loggers import ConsoleLogger
from labnet.stats.metrics import Metrics
from labnet.stats.operations import OpCount, OpStatistics
from labnet.stats.routes import RouteStatistics
from labnet.stats.timeline import Interval, Timeline

__all__ = [
    "Clients",
    "ConsoleLogger",
    "Curve",
    "Interval",
    "Metrics",
    "OpCount",
    "OpStatistics",
    "Rate",
    "RouteStatistics",
    "Timeline",
    "collect",
    "disable",
    "enable",
    "flush",
]
