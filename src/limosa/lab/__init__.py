"""N virtual hosts on this machine (network namespaces), guests, faults: demo, tests, benchmarks."""
