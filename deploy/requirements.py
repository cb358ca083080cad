"""What an image must install for one part of the project, from pyproject.toml, as a requirements file on stdout.

    python requirements.py worker

The Dockerfiles use it to install packages before, and so in a layer below, any code. Only the parts after the first are
left out that the first brings: `digits` is what the digits model needs *beyond* the worker.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> int:
    """Print the packages of the extra that the command line names."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = project["optional-dependencies"][sys.argv[1]]
    ours = f"{project['name']}["
    sys.stdout.writelines(f"{package}\n" for package in packages if not package.startswith(ours))
    return 0


if __name__ == "__main__":
    sys.exit(main())
