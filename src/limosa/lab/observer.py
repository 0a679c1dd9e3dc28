"""The third party: sits on the guests' network and records, from outside, what moves do to guests."""

from limosa.lab.hosts import Role


class Observer(Role):
    """A namespace on the guests' network."""
