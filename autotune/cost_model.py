"""The learned ranking of candidates: gradient-boosted trees on loop-nest features.

With few samples it is no better than chance, so nothing asks it before `ENOUGH` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordsl.autotune.features import VECTOR_VERSION

#: Samples before the learned model is asked: below this the analytical one ranks as well.
ENOUGH = 32
_ROUNDS = 60
_PARAMETERS: dict[str, Any] = {
    "objective": "reg:squarederror",
    "max_depth": 4,
    "eta": 0.15,
    "subsample": 0.9,
    "min_child_weight": 1.0,
    "nthread": 1,  # the other cores compile and measure
    "tree_method": "hist",
    "verbosity": 0,
}


class CostModel:
    """Predicts log2 of a time from a feature vector.  Deterministic for a seed."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._booster: Any = None
        self._base = 0.0

    @property
    def trained(self) -> bool:
        return self._booster is not None

    def fit(self, features: Sequence[np.ndarray], times_us: Sequence[float]) -> None:
        """Learn from measured candidates; those without a time count as four times the slowest."""
        import xgboost

        finite = [t for t in times_us if np.isfinite(t)]
        if not finite:
            return
        worst = 4.0 * max(finite)
        target = np.log2([t if np.isfinite(t) else worst for t in times_us])
        self._base = float(np.mean(target))
        data = xgboost.DMatrix(np.stack(features), label=target - self._base)
        self._booster = xgboost.train({**_PARAMETERS, "seed": self.seed}, data, num_boost_round=_ROUNDS)

    def predict(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """log2 of the expected times in microseconds."""
        import xgboost

        if not len(features):
            return np.zeros(0)
        return self._base + np.asarray(self._booster.predict(xgboost.DMatrix(np.stack(features))), dtype=float)

    def save(self, path: Path) -> None:
        """Keep the model as JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._booster.set_attr(base=repr(self._base), vector=str(VECTOR_VERSION))
        aside = path.with_suffix(f".{id(self):x}.json")
        self._booster.save_model(aside)
        aside.replace(path)

    @staticmethod
    def load(path: Path) -> CostModel | None:
        """A kept model, or None where there is none that can be read."""
        if not path.is_file():
            return None
        import xgboost

        booster = xgboost.Booster()
        try:
            booster.load_model(path)
            base = float(booster.attr("base") or 0.0)
            if booster.attr("vector") != str(VECTOR_VERSION):
                return None
        except (xgboost.core.XGBoostError, ValueError):
            return None
        model = CostModel()
        model._booster, model._base = booster, base
        return model
