"""Finetuning a causal language model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.config import Config, ConfigError
from runner.tasks.base import task
from runner.tasks.finetuning import ModelTask
from runner.tasks.models.bases import token_losses
from runner.tasks.models.options import ModelOptions
from runner.tasks.models.text import Examples, Source, packed

LEAK = 1e-4  # of the logits' spread; a causal model computes both sequences in the same way, to the bit or nearly


@dataclass
class LanguageModelOptions(ModelOptions):
    pass


@task("language_model", LanguageModelOptions)
class LanguageModel(ModelTask):
    """Loss = mean over sequences and tokens of -log p(token | those before it), in nats."""

    @classmethod
    def labels(cls, task: LanguageModelOptions) -> None:
        return None

    @classmethod
    def examples(cls, config: Config) -> tuple[Examples, Examples]:
        return packed(Source.of(config.task, config.bases))

    def to(self, device: torch.device, dtype: torch.dtype) -> "LanguageModel":
        self.model.config.pad_token_id = None  # transformers would look for it in each batch, where there is none
        super().to(device, dtype)
        self._check_causality()
        return self

    @torch.no_grad()
    def _check_causality(self) -> None:
        """Raise ConfigError if what the model says of a token depends on later ones, which would give the answer away."""
        tokens = self.held_out.tokens[:1].long().repeat(2, 1)
        tokens[1, -1] = (tokens[1, -1] + 1) % self.model.config.vocab_size
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1].double()
        if (logits[0] - logits[1]).abs().max() > LEAK * logits.std():
            raise ConfigError(
                f"task.model={self.config.model}: sees later tokens when it predicts one, as models of type "
                f"{self.model.config.model_type} do; choose a causal model, or task=classification"
            )

    def per_example(self, examples: Examples, rows: Tensor) -> dict[str, Tensor]:
        tokens = examples.tokens[rows].long()
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return {"loss": token_losses(logits, tokens).mean(1)}
