"""What is wrong in the fleet."""

from litestar import Router, get

from limosa.api.auth import SECURED
from limosa.api.errors import READS, refusals
from limosa.api.fleet import Asked, controller_of
from limosa.api.understood import understood
from limosa.wire.doctor import FleetDiagnosis


@get("/doctor", responses=refusals(*READS), summary="What is wrong in the fleet")
async def show_doctor(request: Asked) -> FleetDiagnosis:
    """Guests with two owners, silent agents, moves in doubt, strays, certificates; worst first.

    Every agent that talks is asked for its facts; an answer is given again for ten seconds.
    """
    return await controller_of(request).doctor()


routes = Router(path="/v1", route_handlers=[show_doctor], security=SECURED, before_request=understood, tags=["fleet"])
