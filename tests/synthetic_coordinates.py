"""Records of a coordinate check, with exponents that are written down here."""

import pandas as pd
from synthetic import sweep

# s·B·A·Z over W0·Z is lr^a·n^b, so that its exponent along lr ∝ n^p is a·p + b: what the theory has for Init[A], whose B and A·Z
# both grow with the rate, and for Init[B].
POWERS = {"A": (2.0, 1.0), "B": (1.0, 1.0)}
LAYERS = {  # layer -> its factor, and the exponent of W0·Z over Z in n
    "model.layers.0.self_attn.q_proj": (1.0, 0.0),
    "model.layers.0.mlp.up_proj": (2.0, 0.5),
    "model.layers.1.self_attn.q_proj": (0.5, 0.25),
    "model.layers.1.mlp.up_proj": (8.0, 0.5),
}
INCREMENT, INNER = 0.1, 0.3  # the last change over the whole, and A·Z over Z at the same rate


def runs(powers: dict | None = None, **options) -> pd.DataFrame:
    """Of a sweep over language models, with means over layers."""
    frame = sweep(task="language_model", **options)
    parts = [measured(frame, layer, powers) for layer in LAYERS]
    return frame.assign(**{name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})


def layers(powers: dict | None = None, **options) -> pd.DataFrame:
    frame = sweep(task="language_model", **options)
    configured = frame[["run_id", "status", "init.name", "task.width", "optimizer.lr", "seed", "step"]]
    parts = [configured.assign(layer=layer, **measured(frame, layer, powers)) for layer in LAYERS]
    return pd.concat(parts).sort_values(["run_id", "step"], kind="stable").reset_index(drop=True)


def measured(frame: pd.DataFrame, layer: str, powers: dict | None) -> dict[str, pd.Series]:
    """Columns of a layer; seeds differ by the noise of the sweep, which is all of its δ1."""
    factor, of_frozen = LAYERS[layer]
    n, lr, step = frame["task.width"] / 128, frame["optimizer.lr"], frame["step"]
    a, b = (frame["init.name"].str[-1].map({side: (powers or POWERS)[side][i] for side in "AB"}) for i in (0, 1))
    noise = frame["feature/delta_1"].groupby(frame["run_id"]).transform("first")
    Z, size = 0.9 * n**0.2, factor * (100 * lr) ** a * n**b * noise
    frozen = Z * n**of_frozen
    return {
        "feature/Z": Z,
        "feature/Y0": frozen,
        "feature/Z_A": INNER * lr * noise * Z,
        "feature/Z_B": size * frozen * step / 20,
        "feature/dZ_B": (INCREMENT * size * frozen).where(step < 20),
    }
