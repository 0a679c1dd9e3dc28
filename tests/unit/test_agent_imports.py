import subprocess
import sys

HEAVY = ("numpy", "sqlalchemy", "dbos", "ortools")

IMPORT_ALL = """
import importlib, pkgutil, sys
import limosa.agent, limosa.cli.agent
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


def imported(package: str, *looked_for: str) -> list[str]:
    """Which of these modules are there once all of a package, and the agent's command, are imported."""
    told = [sys.executable, "-c", IMPORT_ALL, package, *looked_for]
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout.split()


def test_the_agent_imports_nothing_that_only_a_controller_or_a_browser_needs() -> None:
    assert imported("limosa.agent", *HEAVY, "jinja2", "limosa.web") == []


def test_an_agents_pages_need_no_controllers_parts() -> None:
    assert imported("limosa.web.agent", "sqlalchemy", "dbos", "ortools", "litestar", "uvicorn") == []
