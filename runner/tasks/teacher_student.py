"""The toy model of Hayou, Ghosh, Yu (2024): a wide ReLU student adapts its hidden layer to a low-rank teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config import Config
from runner.config.options import SIZE, SWITCH, Switch, choices, numbers, option
from runner.core.exact import product
from runner.core.rng import generator, normal
from runner.tasks.base import task
from runner.tasks.readout import Readout
from runner.tasks.toy import Batch, ToyOptions


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

    Y_in = W_in·X,  Y_h = [Y_in +] W_h·φ(Y_in),  Y_out = W_out·φ(Y_h),  φ = ReLU.  Student of width n: W_in ~ N(0, 1/d),
    W_h ~ N(0, 1/n), W_out ~ N(0, n^-out_exponent), X ~ N(0, I_d).
    `teacher=separate`: its own width and weights, W_h = B*·A* of rank r*, with A* ~ N(0, 1/width), B* ~ N(0, 1/r*).
    `teacher=same_base`: the student's own base with W_h + B*·A*, which a student of rank r* could match exactly.
    """

    @classmethod
    def frozen(cls, config: Config) -> float:
        """The teacher, too: a hidden weight of its own as it is drawn (float32), and float64 of what its points become."""
        task, own = config.task, config.task.teacher == "separate"
        width = task.teacher_width if own else task.width
        points = task.train_points + task.test_points
        return super().frozen(config) + 4.0 * own * width**2 + 8.0 * width * (2 * task.teacher_rank + 3 * points)

    def __init__(self, config: TeacherStudentOptions, seed: int):
        n, d, rank = config.width, config.input_dim, config.teacher_rank
        base, data, own = (generator(seed, stream) for stream in ("base", "data", "teacher"))

        def network(width: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            """W_in, W_h, W_out."""
            W_in = normal(width, d, variance=1 / d, generator=g)
            W_h = normal(width, width, variance=1 / width, generator=g)
            return W_in, W_h, normal(width, variance=width**-config.out_exponent, generator=g)

        W_in, self.W0, self.readout = network(n, base)
        X = normal(config.train_points + config.test_points, d, variance=1, generator=data)
        Y_in = product(X, W_in.T)
        Z, added = Y_in.relu(), Y_in if config.residual else None
        y0 = product(Z, self.W0.T) + (Y_in if config.residual else 0)
        features, Y_h, W_out = Z, y0, self.readout
        if config.teacher == "separate":
            W_in, _, W_out = network(config.teacher_width, own)
            Y_in = product(X, W_in.T)
            features, Y_h = Y_in.relu(), Y_in if config.residual else 0
        B = normal(len(W_out), rank, variance=1 / rank, generator=own)
        A = normal(rank, len(W_out), variance=1 / len(W_out), generator=own)
        target = product((Y_h + product(product(features, A.T), B.T)).relu(), W_out)
        everything, points = Batch(Z, y0, target, added), config.train_points
        self.train, self.test = everything.map(lambda t: t[:points]), everything.map(lambda t: t[points:])
