"""Click-through-rate prediction and ranking over tabular data."""
