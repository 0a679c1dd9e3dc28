#!/usr/bin/env python3
"""Ask QEMU what its named CPU models are, and write src/limosa/cpu/models.tsv.

    uv run python scripts/cpu_models.py [--qemu PATH]

The answers are those of `query-cpu-definitions` and, for each model, `query-cpu-model-expansion` of type full: what the
model asks for, before an accelerator takes away what it lacks. What a model allows to nested guests shows only where
`vmx` is on, which no model has by itself: that is asked too. Run this again for a new QEMU; the diff shows what is new.
"""

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limosa.cpu.flags import CpuFlags
from limosa.lab import assets

TABLE = Path(__file__).parents[1] / "src" / "limosa" / "cpu" / "models.tsv"
COLUMNS = ("model", "also", "vendor", "flags", "with-vmx")
BARE = ("-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", "stdio")


def named(definitions: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Models that mean the same on every machine type, each with its other names.

    `max` and `host` mean what the machine has (not migration-safe), and `base` is no processor (static).
    """
    models: dict[str, list[str]] = {
        told["name"]: [] for told in definitions if told["migration-safe"] and not told["static"] and not alias(told)
    }
    for told in definitions:
        if alias(told) in models:
            models[alias(told)].append(told["name"])
    return dict(sorted(models.items()))


def alias(told: Mapping[str, Any]) -> str:
    """The model that a name stands for; empty for a model of its own."""
    return str(told.get("alias-of", ""))


def flags(props: Mapping[str, Any]) -> CpuFlags:
    """What is on; names that are no CPU flag (`check`, `l3-cache`) are QEMU's other switches."""
    return CpuFlags.sort(name for name, value in props.items() if value is True)[0]


def row(model: str, also: Sequence[str], props: Mapping[str, Any], nested: Mapping[str, Any]) -> str:
    """One line of the table."""
    own, with_vmx = flags(props), flags(nested)
    nesting = with_vmx - own - CpuFlags.of("vmx")
    return "\t".join((model, " ".join(sorted(also)), props["vendor"], " ".join(own.names()), " ".join(nesting.names())))


class Qemu:
    """A QEMU without a guest, whose monitor is its standard input and output."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program, *BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self.version: Mapping[str, int] = json.loads(self._from.readline())["QMP"]["version"]["qemu"]
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """What one command returns; events in between are passed over."""
        self._to.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._to.flush()
        while "event" in (answer := json.loads(self._from.readline())):
            pass
        return answer["return"]

    def expanded(self, model: str, **props: bool) -> Mapping[str, Any]:
        """All properties of a model, once these have been set."""
        told = self.execute("query-cpu-model-expansion", type="full", model={"name": model, "props": props})
        return dict(told["model"]["props"])

    def quit(self) -> None:
        """End it."""
        self.execute("quit")
        self._process.communicate()


def main() -> None:
    """Write the table and say of what."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--qemu", type=Path, default=assets.qemu_10())
    qemu = Qemu(parser.parse_args().qemu)
    models = named(qemu.execute("query-cpu-definitions"))
    lines = [row(model, also, qemu.expanded(model), qemu.expanded(model, vmx=True)) for model, also in models.items()]
    qemu.quit()
    TABLE.write_text("\n".join(("\t".join(COLUMNS), *lines, "")), encoding="utf-8")
    print(f"{TABLE}: {len(lines)} models of QEMU {'{major}.{minor}.{micro}'.format(**qemu.version)}")


if __name__ == "__main__":
    main()
