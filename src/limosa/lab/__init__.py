"""N virtual hosts on this machine (network namespaces), guests, faults: demo, tests, benchmarks."""

from limosa.lab.hosts import Host
from limosa.lab.inside import Completed, Process
from limosa.lab.lab import Lab, take_down
from limosa.lab.network import Addresses, Link, LinkState
from limosa.lab.observer import Observer
from limosa.lab.state import LabError

__all__ = [
    "Addresses", "Completed", "Host", "Lab", "LabError", "Link", "LinkState", "Observer", "Process", "take_down",
]  # fmt: skip
