"""Stores: models in training on disk, with every answered update."""

from labnet.store.intents import Intent
from labnet.store.records import Outcome, Outcomes
from labnet.store.training import LEVELS, RECOVERY_SECONDS, Durability, Store

__all__ = ["LEVELS", "RECOVERY_SECONDS", "Durability", "Intent", "Outcome", "Outcomes", "Store"]
