"""One QEMU's monitor."""
