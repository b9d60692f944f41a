"""LoRA+'s nonlinear toy: nothing but the two factors between two frozen random layers."""

import math
from dataclasses import dataclass

import torch

from runner.config import Config, ConfigError
from runner.config.options import SIZE, option
from runner.config.registry import ADAPTERS
from runner.core.exact import product
from runner.core.rng import generator, normal
from runner.tasks.base import task
from runner.tasks.readout import Readout
from runner.tasks.toy import Batch, ToyOptions


@dataclass
class SineOptions(ToyOptions):
    input_dim: int = option("d", SIZE)


@task("sine", SineOptions)
class Sine(Readout):
    """f(x) = W_out·φ(s·B·A·φ(W_in·x)), φ = ReLU, against sin(mean of x's entries); loss = mean over points of the squared error
    (LoRA+, Hayou, Ghosh, Yu 2024, section 3.2).

    W_in ~ N(0, 1), W_out ~ N(0, 1/n), x ~ N(0, I_d); the frozen weight beside B·A is zero.
    """

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        if ADAPTERS[config.adapter.name].rescales:
            raise ConfigError(
                f"adapter={config.adapter.name}: the frozen weight of task=sine is zero, and has no directions; choose another "
                "adapter"
            )

    def __init__(self, config: SineOptions, seed: int):
        n, d = config.width, config.input_dim
        base, data = generator(seed, "base"), generator(seed, "data")
        W_in = normal(n, d, variance=1, generator=base)
        self.W0, self.readout = torch.zeros(n, n), normal(n, variance=1 / n, generator=base)
        X = normal(config.train_points + config.test_points, d, variance=1, generator=data)
        Z, mean = product(X, W_in.T).relu(), product(X, torch.ones(d)) / d
        target = mean.apply_(math.sin).float()  # sines differ in the last bits of float64 from one library to another
        everything, points = Batch(Z, torch.zeros_like(Z), target), config.train_points
        self.train, self.test = everything.map(lambda t: t[:points]), everything.map(lambda t: t[points:])
