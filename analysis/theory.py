"""What the theory predicts: exponents in the width n, at the learning rate of the best loss, under Adam or SignSGD.

feature_regression is the setting of the theorem (Hayou, Ghosh, Yu 2024, with the recursion of LoRA+): every output
coordinate has its own target, all of the probe's entries are Θ(1). For language models, too, we hold the theorem
against the data, though it speaks of one adapted layer and of a single sample.

teacher_student has a scalar output y = W_out·φ(Y_h) with W_out ~ N(0, 1/n). An update of B is aligned with W_out and so
moves y by √n times its own size: y moves by Θ(1) already when Z_B does by Θ(n^-1/2). Init[A]: Z_A ≈ lr·n and
B ≈ lr must satisfy lr·Z_A = n^-1/2, hence lr = n^-3/4, Z_A = n^1/4 and Z_B = δ1 = δ2 = n^-1/2. Init[B]: B is random, not
aligned, so B·ΔA·Z = Θ(1) needs lr = n^-1; then Z_A and δ1 are Θ(1), and δ2 and δ3 are n^-1.
"""

from collections.abc import Sequence

import pandas as pd

PAPER = "Hayou, Ghosh, Yu 2024"
COUNTING = "scalar-output counting"
FAMILY = {"gaussian_A": "A", "kaiming_A": "A", "gaussian_B": "B", "kaiming_B": "B"}
QUANTITIES = ("lr", "feature/Z_A", "feature/Z_B", "feature/delta_1", "feature/delta_2", "feature/delta_3")

EXPONENTS = {
    ("feature_regression", "A"): dict(zip(QUANTITIES, (-1 / 2, 1 / 2, 0, 0, 0, 0), strict=True)),
    ("feature_regression", "B"): dict(zip(QUANTITIES, (-1, 0, 0, 0, -1, -1), strict=True)),
    ("language_model", "A"): dict(zip(QUANTITIES, (-1 / 2, 1 / 2, 0, 0, 0, 0), strict=True)),
    ("language_model", "B"): dict(zip(QUANTITIES, (-1, 0, 0, 0, -1, -1), strict=True)),
    ("teacher_student", "A"): dict(zip(QUANTITIES, (-3 / 4, 1 / 4, -1 / 2, -1 / 2, -1 / 2, -1 / 2), strict=True)),
    ("teacher_student", "B"): dict(zip(QUANTITIES, (-1, 0, 0, 0, -1, -1), strict=True)),
}
SOURCES = {"feature_regression": PAPER, "language_model": PAPER, "teacher_student": COUNTING}
RATIO = "delta_2/delta_1"
ADAPTERS = ("lora", "rslora")  # W0 + s·B·A with s of the same size at every width
# Fields by which training is another one than the theory's, empty where they are not used.
REMEDIES = {"optimizer.riemannian": "Riemannian", "optimizer.shrink": "Stable-LoRA", "adapter.freeze": "frozen"}
PAIR_OPTIMIZERS = {"lora_rite": "LoRA-RITE", "lora_muon": "LoRA-Muon"}  # of which each is one in itself


# muA (Chen, Villar, Hayou 2026): exponents in the rank r of the best learning rate for s = r^-γ, under Adam or SignSGD.
RANK_POWERS = {("A", 0.0): -1 / 2, ("A", -0.5): -1 / 4, ("A", -1.0): 0.0, ("B", 0.0): 0.0}
# Exponents of LoRA's best rate over that of full finetuning, which falls as 1/n: (family, size) -> (predicted, the alternative).
# Against the rank for s = r^-1. That the ratio does not depend on the width is what is said where it is found to be 10.
FULL_POWERS = {("A", "n"): (1 / 2, 0.0), ("B", "n"): (0.0, 1 / 2), ("A", "r"): (0.0, -1 / 4)}
MUA, PLUS = "Chen, Villar, Hayou 2026", "LoRA+, Hayou, Ghosh, Yu 2024"


def rank_alternative(predicted: float, measured: float) -> float:
    """The nearest other exponent of RANK_POWERS, from which a measured one must be told; of two as near, that on its side."""
    others = [power for power in RANK_POWERS.values() if power != predicted]
    return min(others, key=lambda power: (abs(power - predicted), abs(power - measured)))


def stability_bound(frame: pd.DataFrame) -> pd.Series:
    """The preconditioned sharpness above which each run's optimizer is unstable in full batch at its rate: (2 + 2β)/((1 - β)·lr)
    for Adam with β = β1 (Cohen et al. 2022, arXiv 2207.14484), (2 + 2μ)/lr for gradient descent with momentum μ, and 2/lr for
    SignSGD, which is Adam with β = 0. nan where the rate is not the same at every step."""
    lr, name = frame["optimizer.lr"], frame["optimizer.name"]
    for field, plain in (("schedule", "constant"), ("warmup", 0)):
        lr = lr.where(frame.get(f"optimizer.{field}", pd.Series(plain, frame.index)).fillna(plain) == plain)
    beta, momentum = (
        frame.get(f"optimizer.{field}", pd.Series(0.0, frame.index)).fillna(0) for field in ("beta1", "momentum")
    )
    return (2 + 2 * momentum) / lr.where(name != "adamw", lr * (1 - beta) / (1 + beta))


def setting(frame: pd.DataFrame) -> str | None:
    """The task whose exponents apply to these runs, or None where the theory says nothing about them."""
    first = frame.iloc[0]
    if not speaks_of(frame):
        return None
    if first["task.name"] == "teacher_student" and first["task.out_exponent"] != 1.0:
        return None
    return first["task.name"] if first["task.name"] in SOURCES else None


def speaks_of(frame: pd.DataFrame) -> bool:
    """Whether these runs have an adapter and an optimizer of the theory's, and no remedy, on whatever task."""
    first = frame.iloc[0]
    plain = not any(frame[field].notna().any() for field in REMEDIES if field in frame)
    known = frame["optimizer.name"].isin(("adamw", "signsgd")).all()
    return bool(plain and known and first.get("adapter.name", "lora") in ADAPTERS)


def exponents(task: str | None, inits: Sequence[str], quantity: str) -> dict[str, float | None]:
    """Init -> predicted exponent in n, None where there is no prediction."""
    return {init: exponent(task, init, quantity) for init in inits}


def exponent(task: str | None, init: str, quantity: str) -> float | None:
    """Predicted exponent in n of a quantity (QUANTITIES or RATIO), None where there is no prediction."""
    table = EXPONENTS.get((task, FAMILY.get(init)))
    if table is None:
        return None
    if quantity == RATIO:
        return table["feature/delta_2"] - table["feature/delta_1"]
    return table[quantity]
