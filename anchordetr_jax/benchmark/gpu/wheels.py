"""Which Python packages a GPU machine without a network lacks.

    python -m anchordetr_jax.benchmark.gpu.wheels          what such a machine usually lacks, as NAME==VERSION
    python -m anchordetr_jax.benchmark.gpu.wheels FOLDER   which wheels of a folder are not installed here

Such a machine has JAX with CUDA, PyTorch, Flax, Optax and Orbax. The rest of what the measurement imports can travel
as wheels. The second form needs nothing but the standard library.
"""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

PRESENT = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch")
NEEDLESS = ("tensorflow-datasets", "importlib-resources", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
"""Dependencies of the project that the measurement does not import, and those that are present."""
OFFICIAL = ("torchvision==0.28.0",)
"""What the official code needs besides PyTorch. No compiled operator of it is used, so it goes with any PyTorch."""
TARGET = {
    "python_version": "3.12",
    "python_full_version": "3.12.3",
    "sys_platform": "linux",
    "platform_system": "Linux",
}
ROOT = Path(__file__).parents[3]


def lacking() -> list[str]:
    """`name==version` of each package that such a machine lacks, for Python 3.12 on Linux x86-64.

    The versions are those of requirements.txt; the dependencies are those of the packages installed here.
    """
    pinned = pinned_versions(ROOT / "requirements.txt")
    direct = {_normal(name) for name in _project_dependencies() if _normal(name) not in NEEDLESS}
    present = _closure(set(PRESENT))
    wanted = _closure(direct) - present
    return sorted(f"{name}=={pinned[name]}" for name in wanted if name in pinned) + list(OFFICIAL)


def missing(folder: Path) -> list[str]:
    """`name==version` of each wheel in a folder whose package is not installed here, in whatever version."""
    installed = {_normal(one.metadata["Name"]) for one in metadata.distributions()}
    wheels = [path.name.split("-")[:2] for path in sorted(folder.glob("*.whl"))]
    return [f"{name}=={version}" for name, version in wheels if _normal(name) not in installed]


def pinned_versions(path: Path) -> dict[str, str]:
    """Version by name of a requirements file, of the lines that hold for the target."""
    from packaging.requirements import Requirement

    pinned = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "-")):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({**TARGET, "extra": ""}):
                pinned[_normal(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return pinned


def _project_dependencies() -> list[str]:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line).name for line in project["dependencies"]]


def _closure(names: Iterable[str]) -> set[str]:
    """The packages and all that they need, as far as they are installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(name, frozenset({""})) for name in names]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        name = _normal(name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**TARGET, "extra": extra}) for extra in extras):
                waiting.append((requirement.name, frozenset({"", *requirement.extras})))
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    print(*(missing(Path(sys.argv[1])) if len(sys.argv) > 1 else lacking()), sep="\n")
