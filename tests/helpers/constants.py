"""What every test may need: the folder of the repository, and how long to wait for what must come."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
