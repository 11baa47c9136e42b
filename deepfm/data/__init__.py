"""Raw columns to encoded batches: schema, transforms, splits, sampling, datasets, adapters."""

from deepfm.data import movielens

# An adapter is a module with schema() -> DatasetSchema and load(data_dir, auto_download=…) ->
# RawTables; `data.dataset_name` chooses it.
ADAPTERS = {
    "movielens-100k": movielens,
}
