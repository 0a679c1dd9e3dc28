"""What changed about a guest, in words."""

from limosa.migration.shape import first_change


def test_a_change_says_what_was_and_what_is() -> None:
    before = {"medium of cd": "/srv/a.iso of 2048 bytes", "plugged memory": 0}
    assert first_change(before, dict(before)) == ""
    changed = before | {"medium of cd": "none, tray open"}
    assert first_change(before, changed) == "medium of cd was /srv/a.iso of 2048 bytes, is none, tray open"
    assert first_change(before, before | {"device new": "child<virtio-blk-pci>"}).startswith(
        "device new was not there, is child<virtio-blk-pci>"
    )
    assert first_change({"device old": "child<edu>"}, {}) == "device old was child<edu>, is gone"
