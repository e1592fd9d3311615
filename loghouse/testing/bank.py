"""Hunting planted bugs: seeds until one breaks a rule, and what that cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loghouse.testing.mutation import Mutant, planted
from loghouse.testing.swarm import SwarmOptions
from loghouse.testing.worlds import CORE, World

NESTED = ("raft", "disk", "network")


@dataclass(frozen=True, slots=True)
class Catch:
    """How a mutant was caught: by which rule, at which seed; `rule` is empty if it survived."""

    mutant: str
    citation: str
    rule: str
    seed: int
    seeds_tried: int
    cpu_seconds: float
    simulated_seconds: float
    violation: str


def options_for(mutant: Mutant, seed: int, world: World = CORE) -> SwarmOptions:
    """Return a seed's options with what the mutant asks for put in their place."""
    options: SwarmOptions = world.draw(seed)
    for name, value in mutant.options:
        group, _, field = name.partition(".")
        if group in NESTED and field:
            options = replace(options, **{group: replace(getattr(options, group), **{field: value})})
        else:
            options = replace(options, **{name: value})
    if mutant.faults:
        kept = {kind: mean for kind, mean in options.faults if kind not in dict(mutant.faults)}
        wanted = {kind: mean * options.election_seconds for kind, mean in mutant.faults if mean}
        options = replace(options, faults=tuple(sorted({**kept, **wanted}.items())))
    return options


def hunt(mutant: Mutant, *, seconds: float, seeds: Sequence[int] = (), world: World = CORE) -> Catch:
    """Run seeds with the bug planted until one is not clean, or the CPU time is used up.

    The seed that caught it must be clean without the bug; a catch that is not due to it does not count.
    """
    begin = time.process_time()
    simulated = 0.0
    tried = 0
    with planted(mutant):
        for seed in seeds or range(mutant.first_seed, mutant.first_seed + 10_000):
            result = world.run(options_for(mutant, seed, world))
            simulated += result.simulated_seconds
            tried += 1
            if result.violation is not None or time.process_time() - begin > seconds:
                break
    spent = time.process_time() - begin
    rule = text = ""
    if result.violation is None:
        seed = 0
    elif (control := world.run(options_for(mutant, seed, world))).violation is not None:
        text = f"seed {seed} breaks without the bug, too: {control.violation}"
    else:
        rule, text = result.violation.rule, str(result.violation)
    figures = (round(spent, 2), round(simulated, 1))
    return Catch(mutant.name, mutant.citation, rule, seed, tried, *figures, text)


def hunt_all(
    mutants: Sequence[Mutant],
    *,
    seconds_each: float,
    tell: Callable[[Catch], None] = lambda catch: None,
    world: World = CORE,
) -> list[Catch]:
    """Hunt every mutant, one after the other; `tell` hears of each hunt as it ends."""
    catches = []
    for mutant in mutants:
        catches.append(hunt(mutant, seconds=seconds_each, world=world))
        tell(catches[-1])
    return catches


def hunt_table(catches: Sequence[Catch]) -> str:
    """Return the catches as a Markdown table."""
    lines = ["| mutant | caught by | seeds | CPU s |", "|---|---|---|---|"]
    lines += [
        f"| {catch.mutant} | {catch.rule or 'SURVIVED'} | {catch.seeds_tried} | {catch.cpu_seconds:.2f} |"
        for catch in catches
    ]
    total = sum(catch.cpu_seconds for catch in catches)
    caught = sum(1 for catch in catches if catch.rule)
    lines.append(f"| {caught} of {len(catches)} | | | {total:.1f} |")
    return "\n".join(lines)
