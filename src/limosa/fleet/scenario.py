"""What `limosa fleet simulate` is asked: a fleet, an operation, and what goes wrong. Pure.

[generated]                     a fleet made from CPUID dumps (generate.py), or `inventory = "fleet.json"`
hosts = 1000
fill = 0.6
cpuid = "dumps"

[operation]
kind = "drain"
count = 50                      that many hosts, or `hosts = ["r000-h01"]`

[trouble]
chance = 0.02                   of each try of a move to fail
"""

import random
from collections.abc import Mapping
from typing import Any

import msgspec

from limosa.fleet.consolidate import consolidate
from limosa.fleet.drain import drain
from limosa.fleet.generate import Shape
from limosa.fleet.home import return_home
from limosa.fleet.inventory import Inventory, Limits
from limosa.fleet.plan import Operation, Plan
from limosa.fleet.rebalance import TOLERANCE, rebalance
from limosa.fleet.solver import improve_consolidation, improve_drain
from limosa.units import HostName, Seconds


class Generated(Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet to generate."""

    cpuid: str
    """Directory of CPUID dumps, from the scenario's own on."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of the fleet; hosts are those to drain, or those whose guests go home."""

    kind: Operation
    hosts: tuple[HostName, ...] = ()
    count: int = 0
    """So many hosts, drawn by `seed`, where none are named."""
    seed: int = 1
    rolling: bool = False
    """Drain the hosts in groups, of `largest` at most, that are back before the next group."""
    largest: int | None = None
    chains: bool = True
    tolerance: float = TOLERANCE
    most: int | None = None
    """Moves of a rebalance, or hosts that a consolidation frees."""
    solver: float = 0.0
    """Seconds for CP-SAT; 0 does without it."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong."""

    chance: float = 0.0
    """Of each try of a move to fail, 0 to 1."""
    tries: int = 3
    """Of each move."""
    seed: int = 1


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fleet, an operation, and what goes wrong."""

    generated: Generated | None = None
    inventory: str = ""
    """File of an inventory in JSON, from the scenario's own directory on."""
    limits: Limits | None = None
    """In place of the fleet's own."""
    operation: Ask
    trouble: Trouble = Trouble()
    now: Seconds = Seconds(0.0)
    """Unix time at which it begins."""


def scenario(told: Mapping[str, Any]) -> Scenario:
    """A scenario out of what a file said.

    Raises:
        ValueError: it is none; says which field.
    """
    found = msgspec.convert(told, Scenario)
    if (found.generated is None) == (not found.inventory):
        raise ValueError("give either [generated] or inventory = FILE")
    return found


def hosts_of(asked: Ask, inventory: Inventory) -> tuple[HostName, ...]:
    """The hosts that an operation is about.

    Raises:
        ValueError: there are none of these names, or not so many.
    """
    unknown = [name for name in asked.hosts if name not in inventory.by_name]
    if unknown:
        raise ValueError(f"the fleet has no host {', '.join(unknown)}")
    if asked.hosts:
        return asked.hosts
    if asked.count > len(inventory.hosts):
        raise ValueError(f"the fleet has {len(inventory.hosts)} hosts, and {asked.count} are asked for")
    dice = random.Random(asked.seed)  # noqa: S311 - the same hosts for the same seed, not a secret
    return tuple(host.name for host in dice.sample(inventory.hosts, asked.count))


def plan_for(asked: Ask, inventory: Inventory, now: Seconds) -> Plan:
    """What is to be done; a rolling drain has no single plan (simulate.py).

    Raises:
        ValueError: the operation cannot be planned from a scenario.
    """
    hosts = hosts_of(asked, inventory)
    match asked.kind:
        case Operation.DRAIN:
            plan = drain(inventory, hosts, chains=asked.chains)
            return _improved(improve_drain(inventory, plan, hosts, seconds=asked.solver)) if asked.solver else plan
        case Operation.REBALANCE:
            return rebalance(inventory, now=now, tolerance=asked.tolerance, most=asked.most)
        case Operation.CONSOLIDATE:
            plan = consolidate(inventory, most=asked.most)
            return _improved(improve_consolidation(inventory, plan, seconds=asked.solver)) if asked.solver else plan
        case Operation.RESTORE:
            return return_home(inventory, hosts or None)
        case _:
            raise ValueError(f"a scenario cannot ask for a {asked.kind}")


def _improved(answer: tuple[Plan, str]) -> Plan:
    plan, said = answer
    return msgspec.structs.replace(plan, notes=(*plan.notes, said))
