"""OR-Tools' CP-SAT on one problem, a process of its own: `python -m limosa.fleet.cpsat`.

The problem comes in on standard input, the answer goes out on standard output. A solver that runs away, or crashes,
takes no controller with it. Needs the extra `[solver]`.
"""

import sys
from collections import defaultdict

import msgspec
from ortools.sat.python import cp_model

from limosa.fleet.assignment import NOWHERE, Answer, Problem


def solve(problem: Problem) -> Answer | None:
    """The best answer found in time; None where there is none at all."""
    model = cp_model.CpModel()
    chosen = [{host: model.new_bool_var("") for host in item.hosts} for item in problem.items]
    left = [model.new_bool_var("") for _ in problem.items]
    costs = []
    for item, places, stays in zip(problem.items, chosen, left, strict=True):
        model.add_exactly_one([*places.values(), stays])
        costs += [places[host] * cost for host, cost in zip(item.hosts, item.costs, strict=True) if cost]
        if item.left is None:
            model.add(stays == 0)
        else:
            costs.append(stays * item.left)
        for host, place in places.items():
            model.add_hint(place, host == item.hint)
    costs += _rooms(model, problem, chosen)
    _groups(model, problem, chosen)
    model.minimize(sum(costs))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = problem.seconds
    solver.parameters.num_workers = problem.workers
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None
    found = (next((host for host, place in places.items() if solver.value(place)), NOWHERE) for places in chosen)
    return Answer(tuple(found), status == cp_model.OPTIMAL)


def _rooms(
    model: cp_model.CpModel, problem: Problem, chosen: list[dict[int, cp_model.IntVar]]
) -> list[cp_model.LinearExpr]:
    """Keep every host within its room; the costs of hosts that are on."""
    costs = []
    for host, (room, cost) in enumerate(zip(problem.rooms, problem.on, strict=True)):
        here = [(item, places[host]) for item, places in zip(problem.items, chosen, strict=True) if host in places]
        for kind, most in enumerate(room):
            if sum(item.need[kind] for item, _ in here) > most:
                model.add(sum(place * item.need[kind] for item, place in here) <= most)
        if cost:
            on = model.new_bool_var("")
            for _, place in here:
                model.add_implication(place, on)
            costs.append(on * cost)
    return costs


def _groups(model: cp_model.CpModel, problem: Problem, chosen: list[dict[int, cp_model.IntVar]]) -> None:
    """No two of a group on one host."""
    together = defaultdict(list)
    for item, places in zip(problem.items, chosen, strict=True):
        for group in item.groups:
            for host, place in places.items():
                together[group, host].append(place)
    for places_there in together.values():
        model.add_at_most_one(places_there)


def main() -> None:
    """Answer one problem."""
    problem = msgspec.json.decode(sys.stdin.buffer.read(), type=Problem)
    sys.stdout.buffer.write(msgspec.json.encode(solve(problem)))


if __name__ == "__main__":
    main()
