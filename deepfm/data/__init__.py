"""Raw columns to encoded batches: schema, transforms, splits, sampling, datasets, adapters."""
