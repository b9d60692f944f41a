"""What a command would train, told without training it."""

from pathlib import Path

from runner.store.runs import Store
from runner.sweeps.execute import check_shared
from runner.sweeps.memory import check_fits, extent
from runner.sweeps.plan import Plan, arrange, plan
from runner.sweeps.results import Results
from runner.sweeps.search import Request, key, rounds


def forecast(request: Request) -> str:
    """What would be trained: runs, stacks and memory; of searches, their first round."""
    check_shared(request.configs)
    results = Results()
    configs = next(rounds(request, results))
    if Path(configs[0].outputs).is_dir():
        with Store(configs[0].outputs, None) as store:
            planned = plan(configs, store)
    else:
        planned = Plan([], arrange(list({key(config): config for config in configs}.values())), [])
    check_fits(planned.stacks)
    sentences = [extent(planned.stacks)]
    if planned.done:
        sentences.append(f"{len(planned.done)} are done")
    if count := len(request.searches):
        limit = configs[0].search.max_runs
        most = f", up to {limit} runs in all" if limit else ""
        sentences.append(
            f"this is the first round of {count} search{'es' * (count > 1)}; more follow from its results{most}"
        )
    return "; ".join(sentences)
