"""Raw columns to arrays: transforms, readers of fields, and encoders that are fitted."""
