"""Scoring, metrics, the ranking protocol and reference recommenders."""
