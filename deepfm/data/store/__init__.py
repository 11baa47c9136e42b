"""Declared tables of any size, encoded once into arrays on disk."""
