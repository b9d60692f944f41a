"""The checks that types cannot make: ranges, names that exist, parts that are compatible. Each failure is one clear message."""

from runner.config.options import ConfigError, check_value, described
from runner.config.registry import ADAPTERS, GROUPS, INITS, OPTIMIZERS, TASKS
from runner.config.resources import check_tf32, resolve_engine
from runner.config.schema import Config


def validate(config: Config) -> None:
    """Raise ConfigError where the fields of the `Config`, of which each is as declared, cannot be run together."""
    for group, parts in GROUPS.items():
        if (name := getattr(config, group).name) not in parts:
            raise ConfigError(f"{group}.name={name}: unknown; choose one of {', '.join(sorted(parts))}")
    task = TASKS[config.task.name]
    task.check(config)
    ADAPTERS[config.adapter.name].check(config.adapter, task.shapes(config.task))
    OPTIMIZERS[config.optimizer.name].check(config.optimizer)
    _check_rates(config)
    _check_pairs(config)
    _check_subspaces(config)
    _check_noise(config)
    _check_init(config)
    resolve_engine(config)
    check_tf32(config)


def check_fields(config: Config) -> None:
    """Raise ConfigError at the first field whose value is not one that it takes."""
    for field, value, declared in described(config):
        check_value(field, value, declared)


def check_rank(field: str, rank: int, layer: str, shape: tuple[int, int]) -> None:
    """Raise ConfigError where a matrix of this rank does not fit into a layer (n_out, n_in)."""
    if rank > min(shape):
        raise ConfigError(
            f"{field}={rank}: exceeds min(n_out, n_in)={min(shape)} of the adapted layer {layer}, {shape[0]}×{shape[1]}; "
            "lower the rank or widen the task"
        )


def _check_rates(config: Config) -> None:
    """That there is something whose rate `lr_ratio` sets."""
    sides, ratio = ADAPTERS[config.adapter.name].sides.values(), config.optimizer.lr_ratio
    if ratio != 1 and "B" not in sides:
        raise ConfigError(
            f"optimizer.lr_ratio={ratio}: adapter={config.adapter.name} trains everything at optimizer.lr, and takes 1"
        )


def _check_pairs(config: Config) -> None:
    """That there are two factors to treat as a pair, and that what is measured knows what that does to an update."""
    name, sides = config.optimizer.name, ADAPTERS[config.adapter.name].sides.keys()
    of_pairs = OPTIMIZERS[name].of_pairs
    if of_pairs and sides != {"A", "B"}:
        others = ", ".join(sorted(adapter for adapter, of in ADAPTERS.items() if of.sides.keys() == {"A", "B"}))
        raise ConfigError(
            f"optimizer={name}: trains factors A and B alone, and adapter={config.adapter.name} trains {', '.join(sides)}; "
            f"choose one of {others}, or another optimizer"
        )
    if of_pairs and TASKS[config.task.name].trains_head:
        raise ConfigError(
            f"optimizer={name}: trains factors A and B alone, and task={config.task.name} trains a head beside them; choose "
            "another optimizer"
        )
    remedies = {f"optimizer.{field}": getattr(config.optimizer, field) for field in ("riemannian", "shrink")}
    for field, value in {f: value for f, value in remedies.items() if value is not None}.items():
        if not {"A", "B"} <= sides:
            raise ConfigError(f"{field}={value}: adapter={config.adapter.name} has no factors A and B, and takes null")
        if field == "optimizer.riemannian" and of_pairs:
            raise ConfigError(f"{field}={value}: optimizer={name} preconditions gradients itself, and takes null")
        if field == "optimizer.shrink" and config.adapter.freeze == "A":
            raise ConfigError(f"{field}={value}: adapter.freeze=A keeps A as it is; leave one of them at null")
        _check_sharpness(config, f"{field}={value}")
    if of_pairs:
        _check_sharpness(config, f"optimizer={name}")


def _check_sharpness(config: Config, changing: str) -> None:
    """That nothing is measured that does not know what `changing` does to updates."""
    if config.sharpness.every is not None:
        raise ConfigError(
            f"sharpness.every={config.sharpness.every}: {changing} changes updates in a way that stability/preconditioned does "
            "not know; do without one of them"
        )


def _check_subspaces(config: Config) -> None:
    """That there are factors whose spans can turn."""
    if config.log.subspaces and not {"A", "B"} <= ADAPTERS[config.adapter.name].sides.keys():
        raise ConfigError(
            f"log.subspaces=true: adapter={config.adapter.name} has no factors A and B that train; leave it at false"
        )


def _check_noise(config: Config) -> None:
    """That a step sees its examples in parts, which tell how gradients vary."""
    if not config.log.noise:
        return
    if not TASKS[config.task.name].compiles:
        raise ConfigError(
            f"log.noise=true: task={config.task.name} sees all its examples at every step; leave it at false"
        )
    if config.task.accumulation < 2:
        raise ConfigError(
            "log.noise=true: the parts of a batch tell it, and task.accumulation=1 makes one of it; set task.accumulation=2 or "
            "more, which leaves the gradient as it is"
        )


def _check_init(config: Config) -> None:
    """That the adapter, the task and the layers can take the init."""
    chosen, task, adapter = INITS[config.init.name], TASKS[config.task.name], ADAPTERS[config.adapter.name]
    of_adapter = sorted(name for name, init in INITS.items() if set(init.parameters) <= adapter.sides.keys())
    if config.init.name not in of_adapter:
        raise ConfigError(
            f"init={config.init.name}: adapter={config.adapter.name} cannot take it; choose one of {', '.join(of_adapter)}"
        )
    if config.adapter.dropout and chosen.residual(config.init):
        raise ConfigError(
            f"adapter.dropout={config.adapter.dropout}: init={config.init.name} takes 0; what is dropped would have to pass "
            "what it takes from the frozen weight"
        )
    if config.adapter.start_from is not None and config.init.name != adapter.default_init:
        raise ConfigError(
            f"init={config.init.name}: a run that starts from adapter.start_from draws nothing; leave init at its default, "
            f"{adapter.default_init}"
        )
    if chosen.needs and not task.calibrates:
        others = ", ".join(name for name in of_adapter if not INITS[name].needs)
        raise ConfigError(
            f"init={config.init.name}: needs calibration data for the frozen model, which task={config.task.name} does not have; "
            f"choose another task, or one of {others}"
        )
    side = getattr(config.adapter, "freeze", None)
    if stays := [name for name in chosen.zero if adapter.sides[name] == side and config.adapter.start_from is None]:
        others = ", ".join(n for n in of_adapter if not any(adapter.sides[name] == side for name in INITS[n].zero))
        other = "" if len(chosen.zero) > 1 else "freeze that one, or "
        raise ConfigError(
            f"adapter.freeze={side}: init={config.init.name} puts {stays[0]} at zero, where it would stay, and then the other "
            f"factor has no gradient; {other}choose one of {others}"
        )
    for layer, shape in task.shapes(config.task).items():
        if reason := chosen.unsupported(config.adapter.rank, shape, config.init):
            raise ConfigError(
                f"adapter.rank={config.adapter.rank}: init={config.init.name} {reason} (layer {layer}, {shape[0]}×{shape[1]})"
            )
