"""What each page shows: the controller asked as the API asks it, and the answer made ready by a view."""

from limosa.fleet.controller import Controller
from limosa.web.controller.pages import Page, Shown
from limosa.web.controller.visit import Visit
from limosa.web.views import fleet, hosts
from limosa.wire.fleet import Operation


async def _open(controller: Controller) -> tuple[Operation, ...]:
    return tuple([await controller.store.get(each.id) for each in await controller.store.open()])


async def show_fleet(visit: Visit) -> Shown:
    """The map."""
    look = await visit.site.looks.look()
    return Shown("Fleet", fleet.fleet_map(look, await _open(visit.controller), visit.query))


async def show_hosts(visit: Visit) -> Shown:
    """The table of hosts."""
    return Shown("Hosts", hosts.hosts(await visit.site.looks.look(), visit.query))


PAGES = (
    Page("/", "fleet.html", show_fleet),
    Page("/hosts", "hosts.html", show_hosts),
)
