"""Classes of rows, for scikit-learn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from deepfm.data.sources.describe import positive_word
from deepfm.errors import ConfigError, nearest, shown
from deepfm.estimators.base import CTREstimator, label_array
from deepfm.estimators.columns import Column


class CTRClassifier(ClassifierMixin, CTREstimator):  # type: ignore[misc]  # as in CTREstimator
    """The probability of a click, or of each of several classes.

    Where all labels are equal, as can be in a fold, that class has the probability 1.

    Args:
        positive: Of two labels the one that `recommend` looks for, and that a saved estimator
            gives the probability of elsewhere; None: the one that says so, such as `yes` or
            `click`, else the second in their order.
        model, settings, fields, user, item, time, validation_fraction, random_state: As
            `CTREstimator` has them.

    Attributes:
        classes_: The different labels in their order, (C,).
        positive_: Of two labels, the positive one.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(200, 2))
        >>> y = np.where(X[:, 0] > 0, "click", "none")
        >>> model = CTRClassifier("lr").fit(X, y)
        >>> model.predict([[2.0, 0.0], [-2.0, 0.0]]).tolist()
        ['click', 'none']
        >>> model.classes_.tolist(), model.positive_
        (['click', 'none'], 'click')
    """

    def __init__(
        self,
        model: str = "deepfm",
        *,
        settings: Mapping[str, Any] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        user: Column | None = None,
        item: Column | None = None,
        time: Column | None = None,
        positive: Any = None,
        validation_fraction: float = 0.1,
        random_state: Any = 42,
    ) -> None:
        super().__init__(
            model,
            settings=settings,
            fields=fields,
            user=user,
            item=item,
            time=time,
            validation_fraction=validation_fraction,
            random_state=random_state,
        )
        self.positive = positive

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (N, C), in the order of `classes_`."""
        check_is_fitted(self)
        predicted: np.ndarray = self._predicted(self._rows(X, reset=False))
        if len(self.classes_) == 1:
            return np.ones((len(predicted), 1))
        if predicted.ndim > 1:
            return predicted
        of_class = [1 - predicted, predicted]
        return np.column_stack(of_class if self._positive_is_last else of_class[::-1])

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (N,)."""
        probability = self.predict_proba(X)
        found: np.ndarray = self.classes_[probability.argmax(axis=1)]
        return found

    @property
    def _positive_is_last(self) -> bool:
        return bool(self.classes_[-1] == self.positive_)

    def _learnt_labels(self, y: Any) -> np.ndarray:
        y = label_array(y, self)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) == 2:
            self.positive_ = self._found_positive()
        return self._known_labels(y)

    def _found_positive(self) -> Any:
        """Which of the two classes is the positive one.

        Raises:
            ConfigError: The one that is asked for is none.
        """
        names = self._class_names()
        if self.positive is not None:
            if self.positive not in self.classes_.tolist():
                hint = nearest(str(self.positive), names)
                raise ConfigError(f"no label {self.positive!r}; {hint}", key="positive")
            return self.positive
        by_word = positive_word(names) if self.classes_.dtype.kind in "UO" else None
        return self.classes_.tolist()[1 if by_word is None else names.index(by_word[0])]

    def _known_labels(self, y: Any) -> np.ndarray:
        y = label_array(y, self)
        codes: np.ndarray = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if (other := self.classes_[codes] != y).any():
            raise ValueError(
                f"expected labels of the classes {shown(self.classes_.tolist())}, found "
                f"{shown(y[other][0])}"
            )
        if len(self.classes_) == 2 and not self._positive_is_last:
            return 1 - codes
        return codes

    def _class_names(self) -> tuple[str, ...]:
        return tuple(map(str, self.classes_.tolist()))

    def _learnt_classes(self) -> tuple[str, ...]:
        names = self._class_names()
        return names[::-1] if len(names) == 2 and not self._positive_is_last else names

    def _figures(self) -> tuple[str, ...]:
        return ("logloss", "auc") if len(self.classes_) == 2 else ("logloss",)

    def _said_of_labels(self) -> dict[str, Any]:
        positive = getattr(self, "positive_", None)
        place = None if positive is None else self.classes_.tolist().index(positive)
        classes, kind = self.classes_.tolist(), self.classes_.dtype.str
        return {"classes": classes, "dtype": kind, "positive": place}

    def _set_labels(self, said: Mapping[str, Any]) -> None:
        self.classes_ = np.array(said["classes"], dtype=said["dtype"])
        if said["positive"] is not None:
            self.positive_ = self.classes_.tolist()[said["positive"]]
