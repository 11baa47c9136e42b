"""Classes of rows, for scikit-learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from deepfm.errors import shown
from deepfm.estimators.base import CTREstimator, label_array


class CTRClassifier(ClassifierMixin, CTREstimator):  # type: ignore[misc]  # as in CTREstimator
    """The probability of a click, or of each of several classes; arguments as `CTREstimator` has.

    Where all labels are equal, as can be in a fold, that class has the probability 1.

    Attributes:
        classes_: The different labels in their order, (C,); of two, the second is the positive one.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 2))
        >>> y = np.where(X[:, 0] > 0, "click", "none")
        >>> model = CTRClassifier("lr").fit(X, y)
        >>> model.predict([[2.0, 0.0], [-2.0, 0.0]]).tolist()
        ['click', 'none']
    """

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (N, C), in the order of `classes_`."""
        check_is_fitted(self)
        predicted = self._predicted(self._rows(X, reset=False))
        if len(self.classes_) == 1:
            return np.ones((len(predicted), 1))
        if predicted.ndim == 1:
            return np.column_stack([1 - predicted, predicted])
        return predicted

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (N,)."""
        probability = self.predict_proba(X)
        found: np.ndarray = self.classes_[probability.argmax(axis=1)]
        return found

    def _learnt_labels(self, y: Any) -> np.ndarray:
        y = label_array(y, self)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        return codes

    def _known_labels(self, y: Any) -> np.ndarray:
        y = label_array(y, self)
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (other := self.classes_[codes] != y).any():
            raise ValueError(
                f"expected labels of the classes {shown(self.classes_.tolist())}, found "
                f"{shown(y[other][0])}"
            )
        return codes

    def _class_names(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes_.tolist()))

    def _figures(self) -> tuple[str, ...]:
        return ("logloss", "auc") if len(self.classes_) == 2 else ("logloss",)

    def _said_of_labels(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.str}

    def _set_labels(self, said: Mapping[str, Any]) -> None:
        self.classes_ = np.array(said["classes"], dtype=said["dtype"])
