"""`python -m bench`: interleaved rounds over all variants, then medians and ratios to nginx.

Owns the options, the order of the runs and what is printed. Installs nothing: it exits 2 and says what to
install when a program is missing, and 1 when a run had errors or a task did not reach the store.
"""

import argparse
import json
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import uvloop

from bench.load import JsonScenario, Measured, Scenario, SseScenario, Target, measure
from bench.peers import (
    VARIANTS,
    MissingToolError,
    Peers,
    StartFailedError,
    Variant,
    nginx_path,
    running,
    store_command,
    store_path,
)
from bench.procstat import Meter
from bench.report import Results, busiest_others, environment, figures, table

SCENARIOS: tuple[Scenario, ...] = (
    JsonScenario("json-1", "Small JSON, 1 client", 1),
    JsonScenario("json-32", "Small JSON, 32 clients", 32),
    SseScenario("sse-100", "Server-sent events, 100 streams of 50 pieces a second", 100, 50),
)
_SETTLE_SECONDS = 0.2
_QUIET_CORES = 0.3
_LATEST = Path(__file__).parent / "results" / "latest.json"


class RunFailedError(Exception):
    """A run could not be done; the text says which one and why."""


def main() -> int:
    options = _options()
    _stop_on_signals()
    _raise_file_limit()
    scenarios = [_shortened(s) if options.quick else s for s in SCENARIOS if s.name in options.scenario]
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    try:
        nginx_path(), store_path()
        versions = environment()
        print("\n".join(f"{key}: {value}" for key, value in versions.items()), flush=True)
        with running(options.variant, dict(pair.split("=", 1) for pair in options.env)) as peers:
            results = _rounds(peers, scenarios, rounds)
    except MissingToolError as error:
        print(error, file=sys.stderr)
        return 2
    except (StartFailedError, RunFailedError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for scenario in scenarios:
        print("\n" + table(scenario, results[scenario.name]))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"environment": versions, "rounds": rounds, "results": results}
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(f"raw figures: {options.json}")
    if (others := busiest_others(results)) > _QUIET_CORES:
        print(f"the machine was busy: other processes took {others:.1f} cores; the figures are noisier for it")
    return 1 if _has_errors(results) else 0


def _rounds(peers: Peers, scenarios: list[Scenario], rounds: int) -> Results:
    """Every variant once per round and scenario, beginning with another one each time."""
    names = [variant.name for variant in peers.variants]
    results: Results = {s.name: {name: [] for name in names} for s in scenarios}
    for number in range(rounds):
        for scenario in scenarios:
            turn = number % len(peers.variants)
            for variant in peers.variants[turn:] + peers.variants[:turn]:
                measured = _one_run(peers, scenario, variant)
                results[scenario.name][variant.name].append(figures(measured))
                _say(number, scenario, variant, measured)
    return results


def _one_run(peers: Peers, scenario: Scenario, variant: Variant) -> Measured:
    store_command(peers.store, "FLUSHALL")  # ours alone, started for this bench
    time.sleep(_SETTLE_SECONDS)
    meter = Meter(variant.proxy, peers.store.pid if variant.has_store else None, peers.upstream.pid)
    target = Target(variant.port, variant.sends_task_ids)
    try:
        measured = uvloop.run(measure(scenario, target, meter))
    except OSError as error:  # refused, reset, or (TimeoutError is one) a run that did not end
        raise RunFailedError(f"{scenario.name}, {variant.name}: {error!r}") from error
    if variant.has_store:
        # A terminal state is stored before the last byte goes out, so all of them are there by now.
        tracked = int(store_command(peers.store, "DBSIZE").removeprefix(":"))
        if tracked < measured.answers:
            measured.errors.append(f"{measured.answers} answers, only {tracked} keys in the store")
    return measured


def _say(number: int, scenario: Scenario, variant: Variant, measured: Measured) -> None:
    found = figures(measured)
    print(
        f"round {number + 1} {scenario.name:8} {variant.name:20} {found['per_second']:8.0f}/s "
        f"p50 {found['p50_us']:7.0f} us  proxy {found['proxy_us']:6.1f} us/{scenario.unit}",
        *measured.errors[:3],
        flush=True,
    )


def _has_errors(results: Results) -> bool:
    runs = (run for by_variant in results.values() for rounds in by_variant.values() for run in rounds)
    return any(run["errors"] for run in runs)


def _shortened(scenario: Scenario) -> Scenario:
    return replace(scenario, seconds=1.0)


def _stop_on_signals() -> None:
    """SIGTERM does what Ctrl-C does: asyncio turns that into a cancelled run, so everything is stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _raise_file_limit() -> None:
    """As many descriptors as we may have; the processes that we start inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _options() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway beside nginx.")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s windows: does it run at all?")
    parser.add_argument("--scenario", action="append", choices=names, help="only this one (repeatable)")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this one (repeatable)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the gateways")
    parser.add_argument("--json", type=Path, default=_LATEST, help="where the raw figures go")
    options = parser.parse_args()
    options.scenario = options.scenario or names
    options.variant = options.variant or list(VARIANTS)
    return options


if __name__ == "__main__":
    sys.exit(main())
