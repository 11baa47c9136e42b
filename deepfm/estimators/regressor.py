"""Numbers of rows, for scikit-learn."""

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from deepfm.estimators.base import CTREstimator, label_array


class CTRRegressor(RegressorMixin, CTREstimator):  # type: ignore[misc]  # as in CTREstimator
    """A number, such as a price or a rating; arguments as `CTREstimator` has.

    The loss is the squared error of numbers that are standardised on the rows that train;
    predictions are in the units of `y`.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> model = CTRRegressor().fit(X, 10 * X[:, 0])
        >>> model.score(X, 10 * X[:, 0]) > 0.9
        True
    """

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted number of each row, (N,)."""
        check_is_fitted(self)
        return self._predicted(self._rows(X, reset=False))

    def _learnt_labels(self, y: Any) -> np.ndarray:
        return label_array(y, self).astype(np.float64)

    def _known_labels(self, y: Any) -> np.ndarray:
        return self._learnt_labels(y)

    def _figures(self) -> tuple[str, ...]:
        return ("rmse",)
