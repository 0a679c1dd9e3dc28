"""What keeps somebody from using a page, as axe-core finds it. The library is a file of the tests, so it is given."""

from pathlib import Path

from selenium.webdriver import Chrome

SERIOUS = {"serious", "critical"}
RUN = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done, why => done({error: `${why}`}))"
NAMELESS_TABLES = """
  return [...document.querySelectorAll('table:not(.u-legend)')].filter(table => {
    const heads = [...table.querySelectorAll('th')];
    return !heads.length || heads.some(head => !head.scope && !head.closest('thead')) || !table.tHead;
  }).map(table => table.outerHTML.slice(0, 200))"""
"""Tables without heads, which axe lets pass."""


def serious(driver: Chrome, axe: Path) -> list[str]:
    """What is serious on the page that is open. Raises RuntimeError where axe itself fails."""
    driver.execute_script(axe.read_text())
    told = driver.execute_async_script(RUN)
    if "error" in told:
        raise RuntimeError(f"axe: {told['error']}")
    return [
        f"{found['id']} ({found['impact']}): {node['html'][:200]}"
        for found in told["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]


def faults(driver: Chrome, axe: Path) -> list[str]:
    """The same, and tables without heads."""
    nameless: list[str] = driver.execute_script(NAMELESS_TABLES)
    return [*serious(driver, axe), *(f"a table without heads: {table}" for table in nameless)]
