"""What operators would have said of a fleet's hosts and guests, put into an empty database at once."""

from typing import Any

import msgspec
import sqlalchemy as sa

from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import hosts, rules
from limosa.fleet.inventory import Guest, Host, HostState, Inventory
from limosa.wire.fleet import GuestRules, HostSettings


async def store(database: Database, inventory: Inventory) -> None:
    """Keep states and settings of hosts, and rules of guests."""
    async with database.write() as connection:
        if inventory.hosts:
            await connection.execute(sa.insert(hosts), [_host(host) for host in inventory.hosts])
        if ruled := [row for guest in inventory.guests if (row := _guest(guest))["rules"] != _NO_RULES]:
            await connection.execute(sa.insert(rules), ruled)


def _host(host: Host) -> dict[str, Any]:
    settings = HostSettings(
        rack=host.rack,
        labels=host.labels,
        storages=host.storages,
        watts=host.watts,
        price_per_hour=host.price_per_hour,
        max_in=host.max_in,
        max_out=host.max_out,
    )
    reason = "" if host.state is HostState.ACTIVE else "as the fleet was made"
    return {"name": host.name, "state": host.state, "reason": reason, "settings": _json(settings)}


def _guest(guest: Guest) -> dict[str, Any]:
    said = GuestRules(
        groups=guest.groups, pin_hosts=guest.pin_hosts, pin_labels=guest.pin_labels, priority=guest.priority
    )
    return {"guest": guest.uuid, "rules": _json(said)}


def _json(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


_NO_RULES = _json(GuestRules())
