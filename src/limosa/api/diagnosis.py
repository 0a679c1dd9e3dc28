"""What is wrong in the fleet."""

from litestar import Router, get

from limosa.api.fleet import Asked, controller_of
from limosa.wire.doctor import FleetDiagnosis


@get("/doctor", summary="What is wrong in the fleet")
async def show_doctor(request: Asked) -> FleetDiagnosis:
    """Guests with two owners, silent agents, moves in doubt, strays, certificates; worst first.

    Every agent that talks is asked for its facts; an answer is given again for ten seconds.
    """
    return await controller_of(request).doctor()


routes = Router(path="/v1", route_handlers=[show_doctor], tags=["fleet"])
