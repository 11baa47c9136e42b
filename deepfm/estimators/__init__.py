"""Estimators for scikit-learn: rows in memory in, `fit` and `predict`, no files.

columns (what X is) -> held_out (which rows stop training) -> fitting (rows to a checkpoint)
-> base -> classifier, regressor
"""

from deepfm.estimators.classifier import CTRClassifier
from deepfm.estimators.regressor import CTRRegressor

__all__ = ["CTRClassifier", "CTRRegressor"]
