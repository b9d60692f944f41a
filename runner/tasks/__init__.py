"""Tasks: a frozen base, data, and the answer to one question: given the stacked adapters, what are losses and gradients?"""

from runner.tasks.base import Task
from runner.tasks.feature_regression import FeatureRegression
from runner.tasks.linear import Linear
from runner.tasks.teacher_student import TeacherStudent

TASKS: dict[str, type[Task]] = {
    "teacher_student": TeacherStudent,
    "feature_regression": FeatureRegression,
    "linear": Linear,
}
