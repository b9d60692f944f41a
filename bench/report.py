"""The measurements as docs/performance.md shows them."""

from typing import Any

import pandas as pd

from bench import costs, language, real, variants
from bench.language import RUNS


def report(result: dict[str, Any]) -> str:
    """The tables in Markdown; of several rounds the best counts."""
    widths, by_stacks = result["widths"], result["stacks"]

    def ms(row: dict[str, Any], name: str) -> float | None:
        return min(row["ms"][name]) if name in row["ms"] else None

    def table(rows: list[dict[str, Any]]) -> str:
        frame = pd.DataFrame(rows).astype(object)
        return frame.where(frame.notna(), None).to_markdown(
            index=False, floatfmt=".3g", missingval="–", disable_numparse=[0]
        )

    def efficiency(row: dict[str, Any]) -> dict[str, Any]:
        seconds = ms(row, "fused") / 1e3
        return {
            "n": str(row["n"]),
            "plain / fused": ms(row, "plain loop") / ms(row, "fused"),
            "plain / general": ms(row, "plain loop") / ms(row, "general"),
            "fused, metrics on / off": ms(row, "fused") / ms(row, "fused, no metrics"),
            "share of multiply-adds": row["multiply_adds"] / seconds / result["multiply_adds_per_second"],
            "share of bandwidth": row["bytes"] / seconds / result["bytes_per_second"],
            **{f"MB, {name}": round(row["MB"][name]) for name in ("plain loop", "PEFT", "vmap", "general", "fused")},
        }

    def of_widths(name: str) -> float:
        return costs.exponent([row["n"] for row in widths], [ms(row, name) for row in widths])

    return "\n\n".join(
        [
            f"Milliseconds per run and step, {result['threads']} threads; {widths[0]['runs']} runs a stack (general: as many "
            "as in brackets):",
            table(
                [
                    {"n": str(row["n"])}
                    | {name: ms(row, name) for name in row["ms"]}
                    | {"general": f"{ms(row, 'general'):.3g} ({row['general_stack']})"}
                    for row in widths
                ]
                + (
                    [{"n": "exponent"} | {name: f"{of_widths(name):.2f}" for name in widths[0]["ms"]}]
                    if len(widths) > 1
                    else []
                )
            ),
            f"Ratios; shares of the {result['multiply_adds_per_second'] / 1e9:.0f} billion multiply-adds and "
            f"{result['bytes_per_second'] / 1e9:.0f} GB a second that this machine reached; memory at the peak:",
            table([efficiency(row) for row in widths]),
            "Milliseconds per run and step against the runs a stack:",
            table(
                [
                    {"n": str(row["n"]), "runs": str(row["runs"])}
                    | {name: ms(row, name) for name in ("vmap", "general", "fused")}
                    for row in by_stacks
                ]
            ),
            "Language models (llama_tiny, 2 layers, 4 × 128 tokens a step), milliseconds per run and step; PEFT trains a run, "
            f"our engines {RUNS} in a stack; *bare* measures nothing; ratios of the best rounds, with their range over rounds:",
            table(language.table(result)),
            f"What a step of a language model (n = {costs.WIDTH}) costs against the runs of a stack, in milliseconds per run, "
            "and the exponent of a run's cost in their number:",
            table(costs.table(result["costs"]["runs"], "runs")),
            "And against the length of its sequences:",
            table(costs.table(result["costs"]["tokens"], "tokens")),
            "SmolLM2 (135M), query and value projections adapted, 4 × 64 tokens a step; stacks of "
            f"{real.RUNS} with autograd's engine; ratios with their range over steps:",
            table(real.table(result["real"])),
            real.sentence(result["real"]),
            f"Adapters of rank {variants.RANK} at n = {variants.WIDTH}, milliseconds per run and step without metrics; "
            f"{RUNS} runs a stack:",
            table(variants.table(result["variants"])),
            variants.sentence(result["variants"]),
            "Overhead: milliseconds a tiny run takes in a sweep:",
            table(result["overhead"]),
            "Reading a sweep's runs from their folders into one table, the median of three:",
            table(result["loading"]),
        ]
    )
