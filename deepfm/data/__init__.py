"""Raw columns to encoded batches: files, sources, encoding, stores; schema, splits, data sets."""

# An adapter is a module with schema() -> DatasetSchema and load(data_dir, auto_download=…) ->
# RawTables; `data.dataset_name` chooses it, and it is imported when it is used.
ADAPTERS = {
    "movielens-100k": "deepfm.data.sources.movielens",
}
