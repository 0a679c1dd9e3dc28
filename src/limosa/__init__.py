"""limosa moves running QEMU/KVM virtual machines between hosts without stopping them."""
