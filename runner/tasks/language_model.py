"""Finetuning a causal language model."""

from torch import Tensor

from runner.models.bases import token_losses
from runner.models.text import Examples, Source, packed
from runner.schema import LanguageModelConfig
from runner.tasks.models import ModelTask


class LanguageModel(ModelTask):
    """Loss = mean over sequences and tokens of -log p(token | those before it), in nats."""

    @classmethod
    def labels(cls, task: LanguageModelConfig) -> None:
        return None

    @classmethod
    def examples(cls, task: LanguageModelConfig) -> tuple[Examples, Examples]:
        return packed(Source.of(task))

    def judge(self, examples: Examples, rows: Tensor) -> dict[str, Tensor]:
        tokens = examples.tokens[rows].long()
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return {"loss": token_losses(logits, tokens).mean(1)}
