"""Records of the sweeps over inits, adapters, ratios of rates and ranks, with what is to be found in them written down here."""

from functools import partial

import numpy as np
import pandas as pd
import synthetic_coordinates
from synthetic import layers, sweep

# Shifts of log loss and of log lr.
INITS = {"gaussian_A": (0.0, 0.0), "kaiming_A": (0.1, 0.5), "pissa": (-0.1, -1.0), "eva": (0.2, 1.0)}
RATIOS = tuple(4.0**k for k in range(-2, 6))
BEST_RATIO = {"A": 4.0, "B": 32.0}
RANKS = (2, 4, 8, 16)
RANK_SLOPES = {
    ("A", 0.0): -0.5,
    ("A", -0.5): -0.25,
    ("A", -1.0): 0.0,
    ("B", 0.0): 0.0,
    ("B", -0.5): 0.0,
    ("B", -1.0): 0.0,
}
TOYS = ("feature_regression", "teacher_student")


def narrow(options: dict) -> dict:
    return {name: value for name, value in options.items() if name != "widths"} | {"widths": (128,)}


def named(frame: pd.DataFrame, name: str, **columns) -> pd.DataFrame:
    """With other columns, and run ids of its own."""
    return frame.assign(**columns, run_id=name + "-" + frame["run_id"])


def zoo(tasks=TOYS, shifts=None, **options) -> pd.DataFrame:
    """Every init is Init[A] with its log loss and its log rate shifted (the rate by whole steps of the grid at most)."""
    tables = []
    for task in tasks:
        frame = sweep(task=task, **narrow(options))
        base = frame[frame["init.name"] == "gaussian_A"]
        for init, (loss, lr) in (shifts or INITS).items():
            column = "summary.final_eval_loss" if task == "language_model" else "summary.final_loss"
            part = named(base, f"{task}-{init}", **{"init.name": init, column: base[column] * np.exp(loss)})
            moved = part["optimizer.lr"] * 2.0 ** np.round(lr / np.log(2))
            tables.append(part.assign(**{"optimizer.lr": moved}))
    return pd.concat(tables, ignore_index=True)


def variants(wrong: int = 0, **options) -> pd.DataFrame:
    """Four adapters on three tasks; `wrong`: how many numbers VeRA trains too many."""
    tables = []
    for task in (*TOYS, "language_model"):
        frame = sweep(task=task, **narrow(options))
        for i, adapter in enumerate(("lora", "rslora", "dora", "vera")):
            trained = 128 + 4 + wrong if adapter == "vera" else 2 * 128 * 4 + 128 * (adapter == "dora")
            part = named(frame, f"{task}-{adapter}", **{"adapter.name": adapter, "adapter.rank": 4, "task.name": task})
            part["summary.trainable_parameters"] = trained
            part["summary.final_loss"] *= 1 + 0.1 * i
            if adapter == "vera":
                part["init.name"] = part["init.name"].map({"gaussian_A": "vera_b0", "gaussian_B": "vera_d0"})
            tables.append(part)
    return pd.concat(tables, ignore_index=True)


def ratios(best: dict | None = None, **options) -> pd.DataFrame:
    """log loss is a parabola in the log of the ratio, around `best` of each init."""
    tables, best = [], best or BEST_RATIO
    for ratio in RATIOS:
        frame = sweep(task="teacher_student", **narrow(options))
        away = frame["init.name"].str[-1].map({side: (np.log(ratio) - np.log(b)) ** 2 for side, b in best.items()})
        columns = {"optimizer.lr_ratio": ratio, "summary.final_loss": frame["summary.final_loss"] * np.exp(0.05 * away)}
        tables.append(named(frame, f"{ratio}", **columns))
    return pd.concat(tables, ignore_index=True)


def ranks(slopes: dict | None = None, stuck: int = 0, **options) -> pd.DataFrame:
    """Best rates are powers of the rank, for three ways to scale the product; up to rank `stuck` runs end near where they began,
    with a best rate of 16 times that."""
    tables, slopes = [], slopes or RANK_SLOPES
    options = {name: value for name, value in options.items() if name != "widths"}
    for power, adapter in ((0.0, "lora"), (-0.5, "rslora"), (-1.0, "lora")):
        changes = {(side, "lr"): slopes[side, power] for side in "AB"}
        frame = sweep(changes, widths=tuple(64 * rank for rank in RANKS), **options)
        rank = frame["task.width"] // 64
        frame["train/loss"] = frame["train/loss"].mask(frame["step"] == 0, 1.0)
        frame.loc[rank <= stuck, "optimizer.lr"] *= 16
        frame.loc[rank <= stuck, "summary.final_loss"] = 0.95 + 0.01 * frame["summary.final_loss"]
        columns = {"adapter.name": adapter, "adapter.rank": rank, "adapter.alpha": rank if power == 0 else 1.0}
        tables.append(named(frame, f"{power}", **columns, **{"task.width": 512}))
    return pd.concat(tables, ignore_index=True)


def directions(signs: dict | None = None, **options) -> pd.DataFrame:
    """Changes of length are the changes of direction times +1 (LoRA) or one over them (DoRA), layer by layer."""
    tables, signs = [], signs or {"lora": 1, "dora": -1}
    frame = layers(**narrow(options))
    place = frame.groupby(["run_id", "step"]).cumcount() + 1
    for adapter, sign in signs.items():
        moved = place * (1 + 0.01 * frame["step"])
        columns = {
            "change/direction": moved,
            "change/magnitude": moved**sign,
            "adapter.name": adapter,
            "task.name": "language_model",
        }
        tables.append(named(frame, adapter, **columns))
    return pd.concat(tables, ignore_index=True)


def horizons(**options) -> pd.DataFrame:
    """A language model of one width, trained for three numbers of steps, of which best rates do not depend."""
    tables = [
        named(sweep(task="language_model", **narrow(options)), f"{steps}", steps=steps) for steps in (60, 120, 240)
    ]
    return pd.concat(tables, ignore_index=True)


def full(slopes: dict | None = None, ratio: float = 8.0, **options) -> pd.DataFrame:
    """LoRA at three widths, and Init[A] at four ranks, beside full finetuning, whose best rate is Init[B]'s over `ratio`.

    `slopes`: LoRA's exponents of the best rate, by (side, symbol).
    """
    slopes = {("A", "n"): -0.5, ("B", "n"): -1.0, ("A", "r"): 0.0, ("B", "r"): 0.0} | (slopes or {})
    widths = options.pop("widths", (128, 256, 512))
    tables = []
    for symbol, sizes in (("n", widths), ("r", (32, 64, 256))):
        changes = {(side, "lr"): slopes[side, symbol] for side in "AB"}
        frame = sweep(changes, widths=sizes, task="language_model", **options)
        rank, width = (8, frame["task.width"]) if symbol == "n" else (frame["task.width"] // 16, 128)
        columns = {"adapter.name": "lora", "adapter.rank": rank, "adapter.alpha": 32.0, "task.width": width}
        part = named(frame, symbol, **columns)
        tables.append(part if symbol == "n" else part[part["init.name"] == "gaussian_A"])
    frame = sweep({("B", "lr"): -1.0}, widths=widths, task="language_model", **options)
    part = named(
        frame[frame["init.name"] == "gaussian_B"], "full", **{"adapter.name": "full", "init.name": "pretrained"}
    )
    tables.append(part.assign(**{"optimizer.lr": part["optimizer.lr"] / ratio}))
    return pd.concat(tables, ignore_index=True)


def advised(model: str, lengths: tuple[int, ...] = (20,), **options) -> pd.DataFrame:
    """A model of one width at several numbers of steps, of which best rates do not depend, beside full finetuning at the last."""
    frame = sweep(task="language_model", **narrow(options)).assign(
        **{"task.model": f"{model}@1.0", "adapter.name": "lora"}
    )
    tables = [named(frame, f"{steps}", steps=steps) for steps in lengths]
    own = frame[frame["init.name"] == "gaussian_B"]
    base = named(own, "full", **{"adapter.name": "full", "init.name": "pretrained"}, steps=lengths[-1])
    return pd.concat([*tables, base.assign(**{"optimizer.lr": base["optimizer.lr"] / 8})], ignore_index=True)


def remedies(**options) -> pd.DataFrame:
    """Plain LoRA, and with Riemannian preconditioning."""
    plain = sweep(**options)
    return pd.concat([plain, named(plain, "riemannian", **{"optimizer.riemannian": 0.01})], ignore_index=True)


def controls(by: str = "norms", **options) -> pd.DataFrame:
    """LoRA, and PiSSA with its controls: `by` says which divides its best rate by 8 and its loss by 1.5."""
    plain = sweep(**narrow(options)).assign(**{"init.directions": None, "init.norms": None})
    own = plain[plain["init.name"] == "gaussian_A"]
    tables = [own]
    for directions in ("own", "random"):
        for norms in ("own", "unit"):
            fields = {"init.name": "pissa", "init.directions": directions, "init.norms": norms}
            arm = named(own, f"pissa {directions} {norms}", **fields)
            if fields[f"init.{by}"] == "own":
                lr, loss = arm["optimizer.lr"] / 8, arm["summary.final_loss"] / 1.5
                arm = arm.assign(**{"optimizer.lr": lr, "summary.final_loss": loss})
            tables.append(arm)
    return pd.concat(tables, ignore_index=True)


TURNED = {"A": 0.0, "B": -2.0}


def turned(powers: dict = TURNED, **options) -> pd.DataFrame:
    """Shares of the random factor's span that are left, with these exponents in the width, on the theorem's own setting."""
    frame = sweep(**options)
    side, x = frame["init.name"].str[-1], frame["task.width"] / 128
    share = 0.5 * x ** side.map(powers)
    share = np.where(frame["step"] == 0, 0.0, share)
    known = {f"subspace/{name}_start": np.where(side == name, 1 - share, np.nan) for name in "AB"}
    last = frame["step"] == frame.groupby("run_id")["step"].transform("max")
    counts = np.where(last, np.where(side == "A", 2.0, 0.0), np.nan)
    return frame.assign(
        **known, **{"spectrum/entropy_rank": np.where(frame["step"] == 0, np.nan, 2.5), "spectrum/intruders": counts}
    )


MADE = {
    "rotation": turned,
    "magnitude": controls,
    "remedies": remedies,
    "advise_smollm2": partial(advised, "smollm2", (5, 10, 20)),
    "advise_minilm": partial(advised, "minilm"),
    "full_finetuning": full,
    "horizon_transfer": horizons,
    "init_zoo": zoo,
    "variants": variants,
    "lora_plus": ratios,
    "rank_transfer": ranks,
    "variants.layers": directions,
    "coordinate_check": synthetic_coordinates.runs,
    "coordinate_check.layers": synthetic_coordinates.layers,
    "lm_mup": synthetic_coordinates.runs,
    "lm_mup.layers": synthetic_coordinates.layers,
}
