"""The setting of the width theorem: the adapted layer's own output is the target, every coordinate of it."""

from dataclasses import dataclass

from torch import Tensor

from runner.config import Config
from runner.config.checks import check_rank
from runner.config.options import SIZE, option
from runner.core.exact import product
from runner.core.rng import generator, normal
from runner.tasks.base import task
from runner.tasks.toy import Batch, SquaredError, ToyOptions, ToyTask


@dataclass
class FeatureRegressionOptions(ToyOptions):
    input_dim: int = option("d", SIZE)
    target_rank: int = option("rank of the target change of W0", SIZE)


@task("feature_regression", FeatureRegressionOptions)
class FeatureRegression(ToyTask):
    """y = (W0 + s·B·A)·Z against (W0 + B*·A*)·Z; loss = mean over points and all n output coordinates.

    Z = √2·ReLU(W_in·x), whose entries have mean square 1: x ~ N(0, I_d), W_in ~ N(0, 1/d), W0 ~ N(0, 1/n).
    The target has rank r* and Θ(1) entries in its output: A* ~ N(0, 1/n), B* ~ N(0, 1/r*).
    """

    fused, calibrates = True, True

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        for layer, shape in cls.shapes(config.task).items():
            check_rank("task.target_rank", config.task.target_rank, layer, shape)

    def __init__(self, config: FeatureRegressionOptions, seed: int):
        n, d, rank = config.width, config.input_dim, config.target_rank
        base, data = generator(seed, "base"), generator(seed, "data")
        W_in = normal(n, d, variance=1 / d, generator=base)
        self.W0 = normal(n, n, variance=1 / n, generator=base)
        X = normal(config.train_points + config.test_points, d, variance=1, generator=data)
        A = normal(rank, n, variance=1 / n, generator=data)
        B = normal(n, rank, variance=1 / rank, generator=data)

        def batch(x: Tensor) -> Batch:
            Z = 2**0.5 * product(x, W_in.T).relu()
            y0 = product(Z, self.W0.T)
            return Batch(Z, y0, y0 + product(product(Z, A.T), B.T))

        self.train, self.test = batch(X[: config.train_points]), batch(X[config.train_points :])

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return SquaredError.apply(y, target) / target.numel()
