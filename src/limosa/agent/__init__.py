"""The daemon: RPC, peer link, settling at start."""
