"""The toy model of Hayou, Ghosh, Yu (2024): a wide ReLU student adapts its hidden layer to a low-rank teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config import Config
from runner.config.options import SIZE, SWITCH, Switch, choices, numbers, option
from runner.core.rng import generator, normal
from runner.tasks.base import task
from runner.tasks.readout import Readout
from runner.tasks.toy import Batch, ToyOptions


@dataclass(frozen=True)
class Network:
    """Y_in = W_in·X,  Y_h = [Y_in +] W_h·φ(Y_in),  Y_out = W_out·φ(Y_h),  φ = ReLU; rows are data points."""

    W_in: Tensor
    W_h: Tensor
    W_out: Tensor
    residual: bool

    def features(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(Z, y0, Y_in): the hidden layer's input φ(Y_in), the pre-activation Y_h it produces, and the residual in it, if any."""
        Y_in = X @ self.W_in.T
        Z = Y_in.relu()
        y0 = Z @ self.W_h.T
        return (Z, y0 + Y_in, Y_in) if self.residual else (Z, y0, None)

    def __call__(self, X: Tensor) -> Tensor:
        return self.features(X)[1].relu() @ self.W_out


@dataclass
class TeacherStudentOptions(ToyOptions):
    input_dim: int = option("d", SIZE)
    residual: Switch = option("Y_h = Y_in + (W_h + s·B·A)·φ(Y_in) rather than without Y_in", SWITCH)
    out_exponent: float = option("W_out ~ N(0, n^-out_exponent)", numbers(-4, 4))
    teacher: str = option(
        "separate: its own width and weights; same_base: the student's base plus a low-rank change",
        choices("separate", "same_base"),
    )
    teacher_width: int = option("for teacher=separate", SIZE)
    teacher_rank: int = option("of the teacher's hidden weight", SIZE)


@task("teacher_student", TeacherStudentOptions)
class TeacherStudent(Readout):
    """Loss = mean over points of (Y_out - Y_teacher)²; the adapter changes W_h of the student.

    Student of width n: W_in ~ N(0, 1/d), W_h ~ N(0, 1/n), W_out ~ N(0, n^-out_exponent), X ~ N(0, I_d).
    `teacher=separate`: its own width and weights, W_h = B*·A* of rank r*, with A* ~ N(0, 1/width), B* ~ N(0, 1/r*).
    `teacher=same_base`: the student's own base with W_h + B*·A*, which a student of rank r* could match exactly.
    """

    @classmethod
    def frozen(cls, config: Config) -> float:
        """The teacher, too: its hidden weight as it is drawn, its change B*·A*, and their sum."""
        task = config.task
        width = task.teacher_width if task.teacher == "separate" else task.width
        points = task.train_points + task.test_points
        teacher = 2 * width**2 + width * (2 * task.teacher_rank + task.input_dim + points)
        return super().frozen(config) + 4.0 * teacher

    def __init__(self, config: TeacherStudentOptions, seed: int):
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
        Z, y0, added = student.features(X)
        everything, points = Batch(Z, y0, Y, added), config.train_points
        self.train, self.test = everything.map(lambda t: t[:points]), everything.map(lambda t: t[points:])
