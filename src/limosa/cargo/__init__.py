"""What travels with a guest, one file per kind: disks, volumes, nics, media, nvram, consoles."""
