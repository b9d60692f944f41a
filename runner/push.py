"""`python -m runner.push EXPERIMENT`: report runs that are done and were never tracked to W&B."""

import argparse
import hashlib
import io
import json
import sys
from pathlib import Path

import pandas as pd
import yaml
from omegaconf import OmegaConf

from runner.config import Config, ConfigError
from runner.config.registry import GROUPS, TRACKERS
from runner.config.schema import Config as Schema
from runner.store.runs import CONFIG, DONE, Outcome
from runner.store.trackers.wandb import tracked


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 where there is nothing that can be reported."""
    parser = argparse.ArgumentParser(prog="python -m runner.push", description=__doc__.split(": ", 1)[1])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a folder of OUTPUTS/runs")
    parser.add_argument("--outputs", default="outputs", help="root of runs and records (default: outputs)")
    parser.add_argument("--project", default="lora-init-dynamics", help="the W&B project")
    parser.add_argument("--entity", help="default: your own")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="offline needs no network")
    options = parser.parse_args(arguments)
    try:
        return push(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def push(options: argparse.Namespace) -> int:
    """Report them, one after the other. Raises ConfigError."""
    folder = Path(options.outputs) / "runs" / options.experiment
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is not there; name a folder of {folder.parent} with finished runs")
    known, tracker, skipped, damaged = tracked(options.outputs), None, 0, 0
    for path in sorted(path.parent for path in folder.glob("*/meta.json")):
        if path.name in known:
            skipped += 1
            continue
        try:
            config, outcome = read(path)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            print(f"skipped damaged run {path}: {error}", file=sys.stderr)
            damaged += 1
            continue
        if outcome is None:
            continue
        choice = TRACKERS.options["wandb"](
            name="wandb", project=options.project, entity=options.entity, mode=options.mode
        )
        config.tracker, config.outputs = choice, options.outputs
        tracker = tracker or TRACKERS["wandb"](config)
        tracker.finish(config, outcome)
    note = tracker.close() if tracker else None
    print(f"{tracker.count if tracker else 0} runs reported" + f", {skipped} were before" * bool(skipped))
    if note:
        print(note)
    return 0


def read(run: Path) -> tuple[Config, Outcome | None]:
    """A stored run as it ended; None for its outcome where it has no result. Raises ValueError where a file is damaged."""
    meta = json.loads((run / "meta.json").read_bytes())
    if meta["status"] not in DONE:
        return None, None
    contents = {name: (run / name).read_bytes() for name in (CONFIG, "steps.parquet", "summary.json")}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != meta["sha256"][name]:
            raise ValueError(f"{name} differs from its checksum")
    fields = yaml.safe_load(contents[CONFIG])
    steps = pd.read_parquet(io.BytesIO(contents["steps.parquet"]))
    return _configuration(fields), Outcome(meta["status"], steps, json.loads(contents["summary.json"]))


def _configuration(fields: dict) -> Config:
    """The `Config` that these fields were written from."""
    cfg = OmegaConf.structured(Schema)
    for group, parts in GROUPS.items():
        cfg[group] = OmegaConf.structured(parts.options[fields[group]["name"]])
    return OmegaConf.to_object(OmegaConf.merge(cfg, fields))


if __name__ == "__main__":
    sys.exit(main())
