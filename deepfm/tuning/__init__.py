"""The search for better settings of a config, judged on its validation rows."""
