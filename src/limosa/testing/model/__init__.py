"""Two hosts in one process, for proving what no failure may do: the real engine over a model of QEMU, link and disk.

Time is virtual, everything that could fail is a numbered point, and a case is a list of faults at such points.
"""
