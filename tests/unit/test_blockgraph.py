"""The block graph by names, also while a block job runs."""

from limosa.guest.blockgraph import block_nodes, read_graph, stable_names
from limosa.guest.profile import Value


def graph(*edges: tuple[str, str, str]) -> dict[str, list[dict[str, Value]]]:
    """Edges as (parent, role, child); what begins with `job-` or `blk-` is a job or a backend."""
    kinds = {"job-": "block-job", "blk-": "block-backend"}
    things = sorted({thing for parent, _, child in edges for thing in (parent, child)})
    return {
        "nodes": [
            {"id": n, "name": name, "type": kinds.get(name[:4], "block-driver")} for n, name in enumerate(things)
        ],
        "edges": [
            {"parent": things.index(parent), "name": role, "child": things.index(child)}
            for parent, role, child in edges
        ],
    }


def test_a_disk_keeps_its_name_and_place_while_it_is_mirrored() -> None:
    quiet = read_graph(graph(("blk-ide0", "root", "#block1"), ("#block1", "file", "#block2")))
    mirrored = read_graph(
        graph(
            ("blk-ide0", "root", "#block9"),
            ("#block9", "backing", "#block1"),
            ("#block1", "file", "#block2"),
            ("job-m", "main node", "#block9"),
            ("job-m", "source", "#block1"),
            ("job-m", "target", "over-there"),
        )
    )
    assert mirrored.transient == {"#block9", "over-there"}
    live = ["#block1", "#block2"]
    assert stable_names(live, mirrored) == stable_names(live, quiet)


def test_a_volume_given_as_a_url_has_its_lun_as_a_number() -> None:
    told = 'json:{"lun": "1", "portal": "10.0.0.2:3260", "driver": "iscsi", "transport": "tcp", "target": "iqn.x:v"}'
    shown = {
        "node-name": "v",
        "drv": "iscsi",
        "ro": False,
        "file": told,
        "detect_zeroes": "off",
        "cache": {"direct": False, "no-flush": False},
    }
    shown |= {"image": {"virtual-size": 512}}
    (node,), _ = block_nodes([shown], read_graph(graph()), {}, {"v": "v"}, str)
    assert node.options["lun"] == 1
