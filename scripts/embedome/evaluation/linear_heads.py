"""The small heads, by scikit-learn: logistic regression and ridge regression, on one vector at a time.

Vectors are scaled to mean 0 and deviation 1 of the train proteins; how strong the penalty is, validation decides. Both
read the train vectors in blocks: ridge regression adds up products, by which the whole is solved exactly; logistic
regression of residues makes steps, that of proteins holds one vector of each in memory.
Shapes: T labels, D dimension, C outputs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from embedome.evaluation.fit import Score
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.tasks import CLASSES, NUMBERS, TRAIN, VAL

# Penalties that are tried: of ridge regression by label, of logistic regression as scikit-learn has them.
RIDGE_PENALTIES = tuple(10.0**power for power in range(-6, 2))
LOGISTIC_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
STEP_PENALTIES = (1e-6, 1e-5, 1e-4)
MOST_ITERATIONS = 1000
EPOCHS = 5
# Of the largest eigenvalue: below it a direction is rounding.
SMALLEST = 1e-12


class LinearModel(NamedTuple):
    """Outputs that are linear in vectors."""

    weights: np.ndarray
    """float64 [D, C]"""
    intercepts: np.ndarray
    """float64 [C]"""


class LinearFit:
    """A linear head: what both have in common.

    Parameters
    ----------
    data : HeadData
    seed : int
        Of the order of residues, where steps are made.
    """

    def __init__(self, data: HeadData, seed: int) -> None:
        from sklearn.preprocessing import StandardScaler

        self.data, self.seed, self.epochs = data, seed, 0
        self.labelling = data.examples.labelling
        self.scaler = StandardScaler()
        self.model: LinearModel | None = None
        self.penalty: float | None = None

    def fit(self, score: Score) -> None:
        """Train on train proteins, and take the penalty whose outputs for validation score best."""
        train = self.data.of_split(TRAIN)
        for vectors, _ in self.data.vectors(train):
            self.scaler.partial_fit(vectors)
        val, best = self.data.of_split(VAL), -np.inf
        for penalty, model in self.candidates(train):
            unscaled = self.unscale(model)
            found = score(self.outputs(val, unscaled))
            if found > best or self.model is None:
                best, self.model, self.penalty = found, unscaled, penalty

    def unscale(self, model: LinearModel) -> LinearModel:
        """Return a model of scaled vectors as one of vectors as they are; of two classes with an output for each."""
        weights, intercepts = model
        if self.labelling.kind == CLASSES and weights.shape[1] == 1:
            weights, intercepts = weights * [-1, 1], intercepts * [-1, 1]
        weights = weights / self.scaler.scale_[:, None]
        return LinearModel(weights, intercepts - self.scaler.mean_ @ weights)

    def candidates(self, train: np.ndarray) -> Iterator[tuple[float, LinearModel]]:
        """Yield a trained model for each penalty."""
        raise NotImplementedError

    def blocks(self, indices: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield scaled vectors, float64 [T, D], and labels."""
        for vectors, targets in self.data.vectors(indices):
            yield self.scaler.transform(vectors.astype(np.float64)), targets

    def predict(self, indices: np.ndarray) -> np.ndarray:
        """Return outputs for the labels of proteins, one protein after the other, float32 [T, C]."""
        assert self.model, "fit comes first"
        return self.outputs(indices, self.model)

    def outputs(self, indices: np.ndarray, model: LinearModel) -> np.ndarray:
        """Return a model's outputs, also for labels that do not count."""
        found = [vectors @ model.weights + model.intercepts for vectors in self.data.all_vectors(indices)]
        return np.concatenate(found).astype(np.float32)


class RidgeFit(LinearFit):
    """Ridge regression; of classes and labels on 1 and -1, as scikit-learn's RidgeClassifier.

    All that it needs of the vectors X and targets Y is X'X and X'Y. With the eigenvectors V and eigenvalues w of X'X,
    the D rows ``sqrt(w) V'`` and ``V'X'Y / sqrt(w)`` have the same products, so that scikit-learn's Ridge solves the
    whole from them.
    """

    def candidates(self, train: np.ndarray) -> Iterator[tuple[float, LinearModel]]:
        """Yield a model for each penalty."""
        from sklearn.linear_model import Ridge

        count, products, mixed, mean_target = self.sums(train)
        values, vectors = np.linalg.eigh(products)
        kept = values > SMALLEST * values[-1]
        roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
        rows, targets = roots[:, None] * vectors.T, (vectors.T @ mixed) / roots[:, None]
        for penalty in RIDGE_PENALTIES:
            solved = Ridge(alpha=penalty * count, fit_intercept=False, solver="cholesky").fit(rows, targets)
            yield penalty, LinearModel(solved.coef_.reshape(targets.shape[1], -1).T, mean_target)

    def sums(self, train: np.ndarray) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """Return how many labels there are, X'X [D, D], X'Y [D, C] and the mean of Y; that of scaled X is 0."""
        dimension, outputs = self.data.features.dimension, self.labelling.outputs
        count, products, mixed = 0, np.zeros((dimension, dimension)), np.zeros((dimension, outputs))
        target_sums = np.zeros(outputs)
        for vectors, labels in self.blocks(train):
            targets = self.as_numbers(labels)
            count += len(vectors)
            products += vectors.T @ vectors
            mixed += vectors.T @ targets
            target_sums += targets.sum(0)
        return count, products, mixed, target_sums / count

    def as_numbers(self, labels: np.ndarray) -> np.ndarray:
        """Return labels as float64 [T, C]."""
        if self.labelling.kind == NUMBERS:
            return labels[:, None]
        if self.labelling.kind == CLASSES:
            return 2.0 * (labels[:, None] == np.arange(self.labelling.outputs)) - 1
        return 2.0 * labels - 1


class LogisticFit(LinearFit):
    """Logistic regression: of proteins with one class each solved whole, of all else by steps, averaged."""

    def candidates(self, train: np.ndarray) -> Iterator[tuple[float, LinearModel]]:
        """Yield a model for each penalty."""
        if self.data.by_residue or self.labelling.kind != CLASSES:
            yield from self.by_steps(train)
            return
        from sklearn.linear_model import LogisticRegression

        blocks = list(self.blocks(train))
        vectors, targets = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        for strength in LOGISTIC_STRENGTHS:
            solved = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS).fit(vectors, targets)
            yield 1 / strength, self.of_classes(solved.coef_, solved.intercept_, solved.classes_)

    def of_classes(self, weights: np.ndarray, intercepts: np.ndarray, classes: np.ndarray) -> LinearModel:
        """Return a model whose outputs are those of all classes; one that no train label has is never the largest."""
        if self.labelling.outputs == 2:
            return LinearModel(weights.T, intercepts)
        if len(classes) == 2:
            weights, intercepts = np.concatenate([-weights, weights]), np.concatenate([-intercepts, intercepts])
        every = np.zeros((weights.shape[1], self.labelling.outputs))
        offsets = np.full(self.labelling.outputs, -np.finfo(np.float32).max)
        every[:, classes], offsets[classes] = weights.T, intercepts
        return LinearModel(every, offsets)

    def by_steps(self, train: np.ndarray) -> Iterator[tuple[float, LinearModel]]:
        """Yield models that are trained together, block by block."""
        from sklearn.linear_model import SGDClassifier

        several = self.labelling.kind != CLASSES
        columns = range(self.labelling.outputs) if several else [None]
        known = np.arange(2 if several else self.labelling.outputs)
        models = {
            penalty: [
                SGDClassifier(loss="log_loss", alpha=penalty, average=True, random_state=self.seed) for _ in columns
            ]
            for penalty in STEP_PENALTIES
        }
        for epoch in range(EPOCHS):
            order = train[np.random.default_rng([self.seed, epoch]).permutation(len(train))]
            for vectors, targets in self.blocks(order):
                for each in models.values():
                    for column, model in zip(columns, each, strict=True):
                        chosen = targets if column is None else targets[:, column].astype(np.int64)
                        model.partial_fit(vectors, chosen, classes=known)
            self.epochs = epoch + 1
        for penalty, each in models.items():
            weights = np.concatenate([model.coef_ for model in each]).T
            yield penalty, LinearModel(weights, np.concatenate([model.intercept_ for model in each]))
