"""`python -m runner.push EXPERIMENT`: report runs that are done and were never tracked to W&B."""

import argparse
import json
import sys
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config import Config, ConfigError
from runner.config.compose import CONF
from runner.config.options import check_value, described
from runner.config.registry import GROUPS, TRACKERS
from runner.core import streams
from runner.store import packs
from runner.store.files import read_fields
from runner.store.outcome import CONFIG, DONE, META, DamagedRun, Outcome, read_outcome, read_verified
from runner.store.trackers.wandb import is_tracked, wandb_id

DAMAGE = (DamagedRun, OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, 1 where something was not reported, 2 where nothing can be."""
    tracker = OmegaConf.load(CONF / "tracker" / "wandb.yaml")
    parser = argparse.ArgumentParser(prog="python -m runner.push", description=__doc__.split(": ", 1)[1])
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a folder of OUTPUTS/runs")
    parser.add_argument("--outputs", default="outputs", help="root of runs and records (default: outputs)")
    parser.add_argument("--project", default=tracker.project, help=f"the W&B project (default: {tracker.project})")
    parser.add_argument("--entity", default=tracker.entity, help="default: your own")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="offline needs no network")
    try:
        return push(parser.parse_args(arguments))
    except (ConfigError, packs.Damaged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def push(options: argparse.Namespace) -> int:
    """Report the runs, one after the other. Raises ConfigError."""
    runs = Path(options.outputs) / "runs"
    folder = runs / options.experiment
    if options.experiment in ("", "..") or Path(options.experiment).name != options.experiment or not folder.is_dir():
        raise ConfigError(
            f"EXPERIMENT={options.experiment!r}: is not there; name a folder of {runs} with finished runs"
        )
    choice = TRACKERS.options["wandb"](name="wandb", project=options.project, entity=options.entity, mode=options.mode)
    for field, value, declared in described(choice):
        check_value(f"--{field}", value, declared)
    tracker, before, failed, unfinished = None, 0, 0, 0
    for run in packs.runs_of(folder):
        try:
            if (stored := read(run)) is None:
                unfinished += 1
                continue
            config, outcome = stored
            config.tracker, config.outputs = choice, options.outputs
            if is_tracked(options.outputs, wandb_id(config)):
                before += 1
                continue
            tracker = tracker or TRACKERS["wandb"](config)
            tracker.finish(config, outcome)
        except OmegaConfBaseException:
            print(f"left out {run}: another version of this project made it", file=sys.stderr)
            failed += 1
        except DAMAGE as error:
            if isinstance(error, ConfigError):
                raise
            print(f"left out {run}: {error}", file=sys.stderr)
            failed += 1
        except Exception as error:  # W&B's own: no login, no network
            print(f"error: W&B takes no more runs ({error}); the same command reports the rest", file=sys.stderr)
            failed += 1
            break
    note = tracker.close() if tracker else None
    others = {"were before": before, "have no result yet": unfinished, "were left out": failed}
    counts = [f"{tracker.count if tracker else 0} runs reported", *(f"{n} {what}" for what, n in others.items() if n)]
    print(", ".join(counts) if len(counts) > 1 or tracker else f"{counts[0]}: {folder} holds none")
    if note:
        print(note)
    return 1 if failed else 0


def read(run: Path) -> tuple[Config, Outcome] | None:
    """A stored run as it ended; None where it has no result. Raises one of DAMAGE, and OmegaConfBaseException."""
    outcome = read_outcome(run)
    if outcome is None or outcome.status not in DONE:
        return None
    files = packs.files(run)
    meta = json.loads(files.read(META))
    return _configuration(read_fields(read_verified(files, meta, [CONFIG])[CONFIG])), outcome


def _configuration(fields: dict) -> Config:
    """The `Config` that these fields were written from."""
    fields = {"executor": {"name": "local"}, "store": {"claims": "lock"}} | fields  # which are not kept
    cfg = OmegaConf.structured(Config)
    for group, parts in GROUPS.items():
        cfg[group] = OmegaConf.structured(parts.options[fields[group]["name"]])
    return OmegaConf.to_object(OmegaConf.merge(cfg, fields))


if __name__ == "__main__":
    streams.prepare()
    sys.exit(main())
