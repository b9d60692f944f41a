"""The toy model of Hayou, Ghosh, Yu (2024): a wide ReLU student adapts its hidden layer to a low-rank teacher."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.rng import generator, normal
from runner.schema import TeacherStudentConfig
from runner.tasks.base import Batch, ToyTask


@dataclass(frozen=True)
class Network:
    """Y_in = W_in·X,  Y_h = [Y_in +] W_h·φ(Y_in),  Y_out = W_out·φ(Y_h),  φ = ReLU; rows are data points."""

    W_in: Tensor
    W_h: Tensor
    W_out: Tensor
    residual: bool

    def features(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """(Z, y0): the hidden layer's input φ(Y_in) and the pre-activation Y_h it produces, residual included."""
        Y_in = X @ self.W_in.T
        Z = Y_in.relu()
        y0 = Z @ self.W_h.T
        return Z, y0 + Y_in if self.residual else y0

    def __call__(self, X: Tensor) -> Tensor:
        return self.features(X)[1].relu() @ self.W_out


class ReLUReadout(torch.autograd.Function):
    """y (…, n) -> ReLU(y)·w (…), in the memory of y: forward leaves ReLU(y) there, backward the gradient g·w·1[y > 0].

    The reason is that of `SquaredError`.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(y.relu_(), w)
        return y @ w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        y, w = ctx.saved_tensors
        return y.sign_().mul_(w).mul_(g.unsqueeze(-1)), None


class TeacherStudent(ToyTask):
    """Loss = mean over points of (Y_out - Y_teacher)²; the adapter changes W_h of the student.

    Student of width n: W_in ~ N(0, 1/d), W_h ~ N(0, 1/n), W_out ~ N(0, n^-out_exponent), X ~ N(0, I_d).
    `teacher=separate`: its own width and weights, W_h = B*·A* of rank r*, with A* ~ N(0, 1/width), B* ~ N(0, 1/r*).
    `teacher=same_base`: the student's own base with W_h + B*·A*, which a student of rank r* could match exactly.
    """

    fused = True

    def __init__(self, config: TeacherStudentConfig, seed: int):
        n, d, rank = config.width, config.input_dim, config.teacher_rank
        base, data = generator(seed, "base"), generator(seed, "data")

        def network(width: int, g: torch.Generator) -> Network:
            return Network(
                W_in=normal(width, d, variance=1 / d, generator=g),
                W_h=normal(width, width, variance=1 / width, generator=g),
                W_out=normal(width, variance=width**-config.out_exponent, generator=g),
                residual=config.residual,
            )

        student = network(n, base)
        X = normal(config.train_points + config.test_points, d, variance=1, generator=data)
        own = generator(seed, "teacher")
        if config.teacher == "separate":
            teacher, start = network(config.teacher_width, own), torch.tensor(0.0)
        else:
            teacher, start = student, student.W_h
        width = len(teacher.W_out)
        B = normal(width, rank, variance=1 / rank, generator=own)
        A = normal(rank, width, variance=1 / width, generator=own)
        Y = Network(teacher.W_in, start + B @ A, teacher.W_out, teacher.residual)(X)

        self.W0, self.readout = student.W_h, student.W_out
        Z, y0 = student.features(X)
        points = config.train_points
        self.train = Batch(Z[:points], y0[:points], Y[:points])
        self.test = Batch(Z[points:], y0[points:], Y[points:])

    def to(self, device: torch.device, dtype: torch.dtype) -> ToyTask:
        self.readout = self.readout.to(device, dtype)
        return super().to(device, dtype)

    def loss(self, y: Tensor, target: Tensor) -> Tensor:
        return (ReLUReadout.apply(y, self.readout) - target).square().mean(1)
