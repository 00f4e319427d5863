"""``python -m baton_lightning bench <what>``: benchmarks of the library."""

from __future__ import annotations

from baton_lightning.arguments import Parser
from baton_lightning.bench import data, gpu, parity, resume, sample, startup, tasks, world


def main(argv: list[str] | None = None) -> int:
    """Runs one benchmark and returns its exit code."""
    parser = Parser(prog="baton_lightning bench", description=__doc__)
    benches = parser.add_subparsers(dest="bench", required=True)
    for bench in (parity, data, resume, startup, world, gpu, sample, tasks):
        name = bench.__name__.rpartition(".")[2]
        summary = (bench.__doc__ or "").splitlines()[0]
        sub = benches.add_parser(name, help=summary, description=summary)
        bench.add_arguments(sub)
        sub.set_defaults(main=bench.main)
    options = parser.parse_args(argv)
    return options.main(options)
