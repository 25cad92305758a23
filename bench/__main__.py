"""`python -m bench`: runs interleaved rounds over all variants of each scenario; writes a JSON file and prints tables.

Owns the options and the order of the runs. It leaves out a peer that cannot be installed, and names it. It reports a
run that fails and goes on. Exit codes: 0; 1 if a run failed or had errors; 2 if the store is missing; 130 after Ctrl-C
or SIGTERM. The file has everything that was measured until then.
"""

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path

from bench import beside, docs, results, tools
from bench.load import Outcome, Scenario
from bench.peers import BEFORE, BINARIES, PEERS, TITLES, Setup, Variant, standing
from bench.process import StartFailedError
from bench.report import QUIET_CORES, busiest_others, summary, table
from bench.scenarios import SCENARIOS
from bench.stores import FilledStores

LATEST = Path(__file__).parent / "results" / "latest.json"
BESIDE = LATEST.with_name("beside.json")

_Find = Callable[[str], AbstractContextManager[Variant]]


def main() -> int:
    options = _options()
    if options.publish:
        docs.publish(results.load(options.json), with_binaries=options.publish_peer_binaries)
        return 0
    _stop_on_signals()
    _raise_file_limit()
    try:
        tools.store()
        return _Bench(options).run()
    except tools.MissingToolError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _Bench:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path: Path = options.json
        self._results = results.load(self._path)
        self._resumes: bool = options.resume
        self._rounds: int = min(options.rounds, 2) if options.quick else options.rounds
        self._env = dict(pair.split("=", 1) for pair in options.env)
        self._beside: Path | None = options.beside
        self._binaries = dict(options.peer_binary)
        self._commit = results.commit()
        chosen = [scenario for scenario in SCENARIOS if _is_chosen(scenario.name, options.only)]
        if self._beside:
            self._commit += f" beside {results.commit(self._beside)}"
            chosen = [beside.with_before(scenario) for scenario in chosen if set(BEFORE) & set(scenario.variants)]
        self._wanted: Sequence[str] = options.variant or [*_ours(self._beside), *options.peers, *self._binaries]
        self._scenarios = [scenario.shortened() for scenario in chosen] if options.quick else chosen

    def run(self) -> int:
        """Measures the chosen scenarios, prints the results, and returns the exit code."""
        print(*(f"{name}: {value}" for name, value in results.environment().items()), sep="\n", flush=True)
        open_ = [scenario for scenario in self._scenarios if self._begin(scenario)]
        for _, group in groupby(open_, key=lambda scenario: scenario.name if scenario.is_fresh else scenario.group):
            self._run_group(list(group))
        return self._report()

    def _begin(self, scenario: Scenario) -> bool:
        """Whether rounds are missing. Rounds of another commit, and without --resume all rounds, are measured again."""
        found = self._results.scenarios.get(scenario.name)
        if not (self._resumes and found is not None and found.commit == self._commit):
            self._results.scenarios[scenario.name] = results.begin(self._commit)
        return self._missing(scenario) > 0

    def _total(self, scenario: Scenario) -> int:
        return min(self._rounds, scenario.most_rounds) * scenario.turns

    def _names(self, scenario: Scenario) -> list[str]:
        return [name for name in scenario.variants if name in self._wanted]

    def _run_group(self, group: Sequence[Scenario]) -> None:
        """Scenarios that share processes, or one scenario whose runs each have new processes.

        Each round has new ones, because a process keeps its layout of memory for life: figures of a process are partly
        luck.
        """
        begun = time.monotonic()
        with ExitStack() as stack:
            filled = FilledStores(stack)
            while open_ := [scenario for scenario in group if self._missing(scenario)]:
                env = {**group[0].gateway_env, **self._env}
                setup = Setup(filled, env, self._beside or tools.ROOT, self._binaries)
                if group[0].is_fresh:
                    self._run_round(group[0], partial(_alone, setup=setup))
                else:
                    self._run_standing(open_, setup)
        print(f"{', '.join(scenario.name for scenario in group)} took {time.monotonic() - begun:.0f} s", flush=True)

    def _missing(self, scenario: Scenario) -> int:
        return self._total(scenario) - len(self._results.of(scenario.name).rounds)

    def _run_standing(self, group: Sequence[Scenario], setup: Setup) -> None:
        """A round of each scenario, with the same processes."""
        names = list(dict.fromkeys(name for scenario in group for name in self._names(scenario)))
        with standing(names, setup) as stand:
            variants = {variant.name: variant for variant in stand.variants}
            for scenario in group:
                left_out = {name: why for name, why in stand.left_out.items() if name in scenario.variants}
                self._results.of(scenario.name).left_out.update(left_out)
                self._run_round(scenario, lambda name: nullcontext(variants[name]))

    def _run_round(self, scenario: Scenario, find: _Find) -> None:
        """Runs every variant once, or once in each turn, beginning with another one each time."""
        found = self._results.of(scenario.name)
        first = len(found.rounds)
        for number in range(first, min(first + scenario.turns, self._total(scenario))):
            names = [name for name in self._names(scenario) if name not in found.left_out]
            round_: results.Round = {}
            for name in self._order(names, number):
                outcome = self._run_one(scenario, name, find)
                print(f"round {number + 1} {scenario.name:13} {name:16} {summary(scenario, outcome)}", flush=True)
                if outcome.figures:
                    round_[name] = outcome.figures
                found.errors += [f"round {number + 1}, {name}: {error}" for error in outcome.errors]
            found.rounds.append({name: round_[name] for name in names if name in round_})
            self._results.environment = results.environment()
            results.save(self._results, self._path)

    def _order(self, names: list[str], number: int) -> list[str]:
        if self._beside:
            return beside.order(names, number)
        first = number % max(len(names), 1)
        return names[first:] + names[:first]

    def _run_one(self, scenario: Scenario, name: str, find: _Find) -> Outcome:
        try:
            with find(name) as variant:
                return scenario.run(variant)
        except tools.MissingToolError as error:
            self._results.of(scenario.name).left_out[name] = str(error)
            return Outcome({}, [])
        except (OSError, StartFailedError) as error:  # refused, reset, or (TimeoutError is one) without an end
            return Outcome({}, [repr(error)])

    def _report(self) -> int:
        chosen = {scenario.name: self._results.of(scenario.name) for scenario in self._scenarios}
        for scenario in self._scenarios:
            print("\n" + table(scenario, chosen[scenario.name]))
        if self._beside:
            print(f"### {self._commit}\n\n{beside.ratios((s, chosen[s.name]) for s in self._scenarios)}\n")
        for name, why in {pair for found in chosen.values() for pair in found.left_out.items()}:
            print(f"left out: {TITLES[name]}: {why}")
        print(f"raw figures: {self._path}")
        if (others := busiest_others(chosen.values())) > QUIET_CORES:
            print(f"the machine was busy: other processes took {others:.1f} cores; the figures are noisier for it")
        return 1 if any(found.errors for found in chosen.values()) else 0


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    """Whether `name` is chosen, by its whole name or by its kind, the part before the dash."""
    return not only or name in only or name.partition("-")[0] in only


def _ours(before: Path | None) -> list[str]:
    """The variants that run with any choice of peers."""
    others = (*PEERS, *BINARIES, *BEFORE.values())
    return list(beside.VARIANTS) if before else [name for name in TITLES if name not in others]


@contextmanager
def _alone(name: str, setup: Setup) -> Iterator[Variant]:
    """A variant with processes of its own."""
    with standing([name], setup) as stand:
        if name in stand.left_out:
            raise tools.MissingToolError(stand.left_out[name])
        yield stand.variants[0]


def _stop_on_signals() -> None:
    """Makes SIGTERM work like Ctrl-C: asyncio cancels the run, so everything stops."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def _raise_file_limit() -> None:
    """Raises the limit of file descriptors as far as allowed; started processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway beside its peers.")
    parser.add_argument(
        "--only", type=_list, default=[], metavar="A,B", help=f"these scenarios, or kinds of them: {names}"
    )
    parser.add_argument("--peers", type=_list, metavar="A,B", help=f"of {', '.join(PEERS)}")
    parser.add_argument(
        "--peer-binary", action="append", default=[], type=_binary, metavar="NAME=PATH",
        help=f"a peer whose program no registry has (repeatable): {', '.join(BINARIES)}",
    )  # fmt: skip
    parser.add_argument("--variant", action="append", choices=TITLES, help="only this one (repeatable)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of short windows: does it run at all?")
    parser.add_argument("--resume", action="store_true", help="keep the rounds of this commit that are in the file")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the gateways")
    parser.add_argument("--beside", type=_checkout, metavar="FOLDER", help="another checkout, as the variants `before`")
    parser.add_argument("--json", type=Path, help="where the figures are kept")
    parser.add_argument("--publish", action="store_true", help="measure nothing; figures and plots into docs/")
    parser.add_argument(
        "--publish-peer-binaries",
        action="store_true",
        help="with --publish: their figures, too",
    )
    options = parser.parse_args(argv)
    if options.peers is None:
        options.peers = [] if options.beside else list(PEERS)
    options.json = options.json or (BESIDE if options.beside else LATEST)
    return options


def _checkout(text: str) -> Path:
    folder = Path(text).resolve()
    if not beside.is_checkout(folder):
        raise argparse.ArgumentTypeError(f"{text} has no gateway/__main__.py")
    return folder


def _binary(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    program = Path(path).resolve()
    if name not in BINARIES or not path or not (program.is_file() and os.access(program, os.X_OK)):
        names = ", ".join(BINARIES)
        raise argparse.ArgumentTypeError(f"{text}: allowed is NAME=PATH of a program file, with a NAME of {names}")
    return name, program


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
