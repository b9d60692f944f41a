"""What a figure must find in its tables: each module lists it as `NEEDS` (values) and `MEASURED` (columns)."""

from dataclasses import dataclass

from analysis.scaling import MIN_WIDTHS


@dataclass(frozen=True)
class Need:
    """At least so many values of a field, and the override that trains them; `among`: only these values count.

    A tuple of them in `NEEDS`: any one will do, and the first is asked for.
    """

    field: str
    least: int
    override: str
    among: tuple[str, ...] | None = None


TWO_WIDTHS, THREE_WIDTHS = (Need("task.width", least, "task.width=128,256,512") for least in (2, MIN_WIDTHS))
TWO_RATES, OFF_THE_EDGE = (Need("optimizer.lr", least, "optimizer.lr=1e-4,1e-3,1e-2,1e-1") for least in (2, 3))
CURVE = Need("step", 5, "steps=100")
