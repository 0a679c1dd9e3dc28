"""N virtual hosts on this machine (network namespaces), guests, faults: demo, tests, benchmarks."""

from limosa.lab.hosts import Host
from limosa.lab.inside import Completed, Process
from limosa.lab.lab import Lab, take_down
from limosa.lab.network import Addresses, Link, LinkState
from limosa.lab.observer import Observer
from limosa.lab.state import LabError
from limosa.lab.traces import HeartbeatRecord, PingRecord

__all__ = [
    "Addresses",
    "Completed",
    "HeartbeatRecord",
    "Host",
    "Lab",
    "LabError",
    "Link",
    "LinkState",
    "Observer",
    "PingRecord",
    "Process",
    "take_down",
]
