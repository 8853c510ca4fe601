"""What tests share: users, workers, commands, a database connection, and waiting for a condition."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
