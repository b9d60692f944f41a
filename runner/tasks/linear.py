"""LoRA+'s linear model, whose increments have closed forms: the oracle for metrics and optimizers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from runner.config.options import SIZE, option
from runner.core.exact import product
from runner.core.rng import generator, normal
from runner.tasks.base import task
from runner.tasks.toy import Batch, SquaredError, ToyOptions, ToyTask


@dataclass
class LinearOptions(ToyOptions):
    outputs: int = option("outputs of the model; one leaves room for rank 1 only", SIZE)

    def layer_shape(self) -> tuple[int, int]:
        return self.outputs, self.width


@task("linear", LinearOptions)
class Linear(ToyTask):
    """f(x) = (W* + s·B·A)·x, loss = mean over points of ‖f(x) - y‖²/2 (LoRA+, Hayou, Ghosh, Yu 2024, section 3).

    With one output and rank 1 this is f(x) = (W* + b·aᵀ)x. x ~ N(0, I_n), y ~ N(0, 1), W* ~ N(0, 1/n).
    """

    rank: ClassVar[int] = 1  # of an adapter, where none is asked for

    def __init__(self, config: LinearOptions, seed: int):
        base, data = generator(seed, "base"), generator(seed, "data")
        n, points = config.width, config.train_points
        self.W0 = normal(config.outputs, n, variance=1 / n, generator=base)
        X = normal(points + config.test_points, n, variance=1, generator=data)
        Y = normal(points + config.test_points, config.outputs, variance=1, generator=data)
        y0 = product(X, self.W0.T)
        self.train = Batch(X[:points], y0[:points], Y[:points])
        self.test = Batch(X[points:], y0[points:], Y[points:])

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return SquaredError.apply(y, target) / (2 * len(target))
