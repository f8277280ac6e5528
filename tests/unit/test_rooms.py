"""README, "Layout": every folder is there, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def folders(of: str) -> set[str]:
    packages = (ROOT / of).rglob("__init__.py")
    inside = (path.parent.relative_to(ROOT) for path in packages)
    return {f"{folder}/" for folder in inside if "vmm/devices" not in str(folder)}


def test_table_of_the_readme_has_every_folder() -> None:
    layout = (ROOT / "README.md").read_text().split("## Layout\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in layout.splitlines() if "| `" in line]
    named = {name for cell in cells for name in re.findall("`([^`]+/)`", cell)}
    others = {"guest/", "scripts/", "tests/", "examples/"}
    assert named == folders("vmm") | folders("devices") | others
