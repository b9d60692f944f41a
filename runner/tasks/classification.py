"""Finetuning a classifier of texts: adapters in the base, and a head that each run trains in full."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cross_entropy

from runner.config import Config, ConfigError
from runner.config.options import integers, option
from runner.core.messages import say
from runner.core.rng import generator, normal
from runner.inits import Calibration
from runner.tasks.base import task
from runner.tasks.finetuning import HEAD_STD, ModelTask
from runner.tasks.models import spec
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.text import Examples, Source, labelled


@dataclass
class ClassificationOptions(ModelOptions):
    label_column: str = option("integers from 0")
    labels: int = option("how many there are", integers(2, 10000))


@task("classification", ClassificationOptions)
class Classification(ModelTask):
    """Loss = mean over examples of -log p(label), in nats; accuracy = share of examples whose likeliest label is right."""

    trains_head: ClassVar[bool] = True
    evals: ClassVar[tuple[str, ...]] = ("eval/loss", "eval/accuracy")

    def __init__(self, configs: Sequence[Config]):
        super().__init__(configs)
        tokenizer = Source.of(self.config, configs[0].bases).tokenizer()
        # Decoders classify the last token that is not padding, and so must know which is.
        self.model.config.pad_token_id = 0 if tokenizer is None else tokenizer.pad_token_id

    def calibrate(self, examples: int, needs: Collection[str]) -> dict[str, Calibration]:
        """With a head that is drawn once for all runs: their own differ, and the statistics are shared."""
        stream = generator(self.config.base_seed, "head")
        for name, (n_out, n_in, _) in self.heads.items():
            weight = normal(n_out, n_in, variance=HEAD_STD**2, generator=stream)
            spec.weight(self.modules[name]).copy_(weight)
            if self.modules[name].bias is not None:
                self.modules[name].bias.zero_()
        return super().calibrate(examples, needs)

    @classmethod
    def labels(cls, task: ClassificationOptions) -> int:
        return task.labels

    @classmethod
    def check(cls, config: Config) -> None:
        super().check(config)
        model = spec.configuration(config.task.model, config.task.width, config.task.layers)
        classifies = any(name.endswith("ForSequenceClassification") for name in model.architectures or [])
        if classifies and model.num_labels != config.task.labels:
            raise ConfigError(
                f"task.labels={config.task.labels}: {config.task.model} is a classifier with {model.num_labels} labels; set "
                f"task.labels={model.num_labels}, or give a checkpoint without a head: runs draw and train one of their own"
            )
        if len(config.task.text_columns) not in (1, 2):
            raise ConfigError(
                f"task.text_columns={config.task.text_columns}: must name one column, or two for pairs of texts"
            )

    @classmethod
    def prepare(cls, config: Config) -> None:
        super().prepare(config)
        training, held_out = cls.examples(config)
        seen, asked = (set(part.labels.tolist()) for part in (training, held_out))
        if len(seen) == 1:
            raise ConfigError(
                f"task.dataset={config.task.dataset}: all {len(training)} rows of its training part have label {min(seen)}, so "
                "there is nothing to learn; give rows of several labels, in mixed order where the last tenth is held out"
            )
        if unseen := sorted(asked - seen):
            say(
                f"warning: labels {', '.join(map(str, unseen))} are held out and never trained on; are the rows in mixed order?"
            )

    @classmethod
    def examples(cls, config: Config) -> tuple[Examples, Examples]:
        return labelled(Source.of(config.task, config.bases))

    def per_example(self, examples: Examples, rows: Tensor) -> dict[str, Tensor]:
        labels = examples.labels[rows]
        segments = {}
        if examples.segments is not None and (getattr(self.model.config, "type_vocab_size", 0) or 0) > 1:
            segments = {"token_type_ids": examples.segments[rows].long()}  # others would read them as words, or fail
        logits = self.model(
            input_ids=examples.tokens[rows].long(), attention_mask=examples.mask[rows].long(), **segments
        ).logits
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        return {
            "loss": cross_entropy(logits, labels, reduction="none"),
            "accuracy": (logits.argmax(1) == labels).double(),
        }
