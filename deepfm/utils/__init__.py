"""Leaves: seeding, logging and file helpers. They import nothing of the package but errors."""
