"""What models have in common that read flat embeddings, and neither of the other two views."""

from deepfm.models.base import BaseCTRModel


class FlatModel(BaseCTRModel):
    """No first-order term, and no field embeddings."""

    @property
    def uses_first_order(self) -> bool:
        return False

    @property
    def uses_field_embeddings(self) -> bool:
        return False
