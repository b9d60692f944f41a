"""Tasks: a frozen base, data, and the answer to one question: given the stacked adapters, what are losses and gradients?"""

from runner.tasks.base import Task
from runner.tasks.classification import Classification
from runner.tasks.feature_regression import FeatureRegression
from runner.tasks.language_model import LanguageModel
from runner.tasks.linear import Linear
from runner.tasks.sine import Sine
from runner.tasks.teacher_student import TeacherStudent

TASKS: dict[str, type[Task]] = {
    "teacher_student": TeacherStudent,
    "feature_regression": FeatureRegression,
    "sine": Sine,
    "linear": Linear,
    "language_model": LanguageModel,
    "classification": Classification,
}
