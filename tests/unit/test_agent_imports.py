import subprocess
import sys

HEAVY = ("numpy", "sqlalchemy", "dbos", "ortools")

IMPORT_ALL = """
import importlib, pkgutil, sys
import limosa.agent, limosa.cli.agent
for module in pkgutil.walk_packages(limosa.agent.__path__, "limosa.agent."):
    importlib.import_module(module.name)
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


def test_the_agent_imports_nothing_that_only_a_controller_needs() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
