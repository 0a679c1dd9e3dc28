"""What schemathesis is told of the API beyond its description."""

from typing import Any

import schemathesis


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
