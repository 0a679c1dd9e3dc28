"""What is wrong on some hosts, told from their facts; and which strays are proved unused. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from limosa.units import format_size
from limosa.wire.doctor import Facts, Owned, Qemu, Standing, Thing, Trouble, Weight
from limosa.wire.findings import Severity

FIX = "limosa doctor --fix, on that host, removes it"
WAITING = "inmigrate"

NOWHERE = "nowhere, as far as the hosts that answered know"

_WEIGHTS = {Severity.BLOCKS: Weight.ERROR, Severity.WARNING: Weight.WARNING, Severity.NOTE: Weight.NOTE}


def diagnose(hosts: Sequence[Facts], silent: Mapping[str, str]) -> tuple[Trouble, ...]:
    """Everything that is wrong, worst first.

    Args:
        hosts: their facts.
        silent: hosts that could not be asked, and why.
    """
    found = [*_twice(hosts), *_conflicts(hosts)]
    for facts in hosts:
        found += [*_doubts(facts, hosts), *_twins(facts, hosts), *_strays(facts, hosts), *_old_images(facts)]
        found += [
            Trouble(weight=_WEIGHTS[f.severity], host=facts.host, what=f.what, remedy=f.remedy) for f in facts.findings
        ]
    found += [
        Trouble(weight=Weight.WARNING, host=host, what=f"{host} could not be asked: {why}", remedy=f"bring {host} back")
        for host, why in silent.items()
    ]
    order = [Weight.ERROR, Weight.WARNING, Weight.NOTE]
    return tuple(sorted(found, key=lambda trouble: order.index(trouble.weight)))


def twins(facts: Facts) -> tuple[Qemu, ...]:
    """QEMUs that limosa started to take a guest in, and that no move knows any more. They have never executed."""
    return tuple(q for q in facts.qemus if q.ours and q.state == WAITING and q.move is None)


def why_left(thing: Thing, others: Sequence[Facts], silent: Iterable[str]) -> str:
    """Why a thing must not be removed; empty where it is proved unused.

    Args:
        thing: on the host that shall be tidied up.
        others: the other hosts' facts.
        silent: hosts that could not be asked.
    """
    if thing.standing is Standing.OPEN:
        return f"move {thing.move} is open"
    if thing.held_by:
        return f"{thing.held_by} uses it"
    if thing.doubt:
        return thing.doubt
    for facts in others:
        if any(move.id == thing.move for move in facts.moves):
            return f"move {thing.move} is open on {facts.host}"
    unheard = ", ".join(silent)
    if unheard and not thing.whole_host:
        return f"it is on storage that other hosts may see, and {unheard} could not be asked"
    return ""


def named(thing: Thing) -> str:
    """A thing in words."""
    inside = f" in the QEMU with pid {thing.pid}" if thing.pid else ""
    return f"{thing.kind} {thing.name}{inside}"


def runs_on(hosts: Sequence[Facts], identity: str) -> str:
    """Where a guest executes, as its QEMUs say."""
    found = {
        facts.host
        for facts in hosts
        for qemu in facts.qemus
        if identity in {qemu.uuid, f"name:{qemu.name}"} and qemu.state == "running"
    }
    return ", ".join(sorted(found)) or NOWHERE


def _twice(hosts: Sequence[Facts]) -> Iterator[Trouble]:
    """One UUID in two QEMUs that are not the two ends of one move."""
    places: dict[str, list[tuple[str, Qemu]]] = defaultdict(list)
    for facts in hosts:
        for qemu in facts.qemus:
            if qemu.uuid:
                places[qemu.uuid].append((facts.host, qemu))
    for uuid, found in places.items():
        stray = {(host, q.pid) for host, q in found if q.ours and q.state == WAITING and q.move is None}
        separate = {q.move or f"{host}/{q.pid}" for host, q in found if (host, q.pid) not in stray}
        if len(separate) < 2:
            continue
        running = [q for _, q in found if q.state == "running"]
        where = ", ".join(f"{q.name} on {host} (pid {q.pid}, {q.state})" for host, q in found)
        yield Trouble(
            weight=Weight.ERROR,
            host=found[0][0],
            what=f"UUID {uuid} runs {len(running)} times: {where}"
            if len(running) > 1
            else f"UUID {uuid} is in {len(found)} QEMUs: {where}",
            guest_runs=runs_on(hosts, uuid),
            remedy="find out which one is the guest (limosa doctor on these hosts says what each journal knows), "
            "and end the others; limosa ends none of them by itself",
        )


def _conflicts(hosts: Sequence[Facts]) -> Iterator[Trouble]:
    """What the journals say of owners, held against each other and against what runs."""
    holding: dict[str, list[tuple[str, Owned]]] = defaultdict(list)
    for facts in hosts:
        for owned in facts.owners:
            if owned.here:
                holding[owned.identity].append((facts.host, owned))
            else:
                yield from _given_up_but_here(facts, owned, hosts)
    for identity, found in holding.items():
        if len(found) > 1:
            known = ", ".join(f"{host} at epoch {owned.epoch}" for host, owned in found)
            yield Trouble(
                weight=Weight.ERROR,
                host=found[0][0],
                what=f"more than one journal says that it owns {identity}: {known}",
                guest_runs=runs_on(hosts, identity),
                remedy="the highest epoch is the owner's; on a host that was fenced for `limosa resolve` and has come "
                "back, `limosa doctor --fix` corrects the journal, unless the guest runs there too",
            )


def outranked(here: Facts, others: Sequence[Facts]) -> tuple[Owned, ...]:
    """What this host's journal has to record: guests that it thinks are its own, and that another one owns since.

    It was fenced when the guest was taken back from it (`limosa resolve`), and has come back without the guest.
    """
    running = {name for qemu in here.qemus for name in (qemu.uuid, f"name:{qemu.name}")}
    found = []
    for owned in here.owners:
        rivals = [(o.epoch, f.host, o) for f in others for o in f.owners if o.here and o.identity == owned.identity]
        if not owned.here or owned.identity in running or not rivals:
            continue
        epoch, host, theirs = max(rivals, key=lambda rival: rival[0])
        if epoch > owned.epoch:
            found.append(msgspec.structs.replace(theirs, here=False, peer=host))
    return tuple(found)


def _given_up_but_here(facts: Facts, owned: Owned, hosts: Sequence[Facts]) -> Iterator[Trouble]:
    for qemu in facts.qemus:
        if owned.identity in {qemu.uuid, f"name:{qemu.name}"} and qemu.move is None and qemu.state != WAITING:
            yield Trouble(
                weight=Weight.ERROR,
                host=facts.host,
                what=f"{qemu.name} (pid {qemu.pid}, {qemu.state}) is on {facts.host}, which gave it up to {owned.peer} "
                f"at epoch {owned.epoch}",
                guest_runs=runs_on(hosts, owned.identity),
                remedy=f"if it runs on {owned.peer}, end this one",
            )


def _doubts(facts: Facts, hosts: Sequence[Facts]) -> Iterator[Trouble]:
    for move in facts.moves:
        if move.state == "in doubt":
            what = f"{move.guest} is in doubt (move {move.id}): {move.waits_for}"
            runs = f"paused on {facts.host} until {move.peer} has said whether it took the guest"
            yield Trouble(weight=Weight.ERROR, host=facts.host, what=what, guest_runs=runs, remedy=move.remedy)
        elif move.state in {"settling", "not taken up"}:
            what = f"move {move.id} of {move.guest}, whose other end is {move.peer}, is {move.state}"
            remedy = move.remedy or f"it goes on by itself as soon as {move.peer} answers"
            runs = runs_on(hosts, move.identity)
            yield Trouble(weight=Weight.WARNING, host=facts.host, what=what, guest_runs=runs, remedy=remedy)


def _twins(facts: Facts, hosts: Sequence[Facts]) -> Iterator[Trouble]:
    for twin in twins(facts):
        what = f"a twin of {twin.name} (pid {twin.pid}) waits for a guest, and no move knows it"
        runs = runs_on(hosts, twin.uuid or f"name:{twin.name}")
        yield Trouble(weight=Weight.WARNING, host=facts.host, what=what, guest_runs=runs, remedy=FIX)


def _strays(facts: Facts, hosts: Sequence[Facts]) -> Iterator[Trouble]:
    others = [each for each in hosts if each is not facts]
    for thing in facts.things:
        if thing.standing is Standing.OPEN or thing.held_by:
            continue
        if any(move.id == thing.move for each in others for move in each.moves):
            continue  # a rehearsal, or a move whose other end has put it away already
        why = why_left(thing, others, ())
        of = f" of move {thing.move}, which is {thing.standing}" if thing.move else ""
        remedy = f"look at it: {why}" if why else FIX
        what = f"stray {named(thing)}{of}"
        yield Trouble(weight=Weight.WARNING, host=facts.host, what=what, remedy=remedy)


def _old_images(facts: Facts) -> Iterator[Trouble]:
    if images := facts.old_images:
        total = format_size(sum(image.size for image in images))
        what = f"{len(images)} old images, {total}: {', '.join(image.path for image in images)}"
        remedy = "they are the guests' images from before their moves; delete them when you no longer need them"
        yield Trouble(weight=Weight.NOTE, host=facts.host, what=what, remedy=remedy)
