"""What schemathesis is told of the API beyond its description, and from where it asks."""

from itertools import cycle
from typing import Any

import schemathesis
from urllib3.util import connection

ADDRESSES = cycle(f"127.0.0.{number}" for number in range(1, 255))
_connect = connection.create_connection


def from_the_next_address(*where: Any, **how: Any) -> Any:
    """Connect as another client each time: of one, more than twenty wrong tokens a minute are answered 429.

    `ignored_auth` tries a wrong token at each route, and opens a connection for it.
    """
    return _connect(*where, **how | {"source_address": (next(ADDRESSES), 0)})


connection.create_connection = from_the_next_address


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Write whole numbers without a point: JSON Schema counts 5.0 among integers, and the API does not."""
    return whole(body)


def whole(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [whole(each) for each in value]
        case dict():
            return {name: whole(each) for name, each in value.items()}
        case _:
            return value
