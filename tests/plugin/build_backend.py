"""A build backend (PEP 517) for one pure module: it packs the wheel that pip installs."""

import base64
import hashlib
import tomllib
import zipfile
from pathlib import Path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    folder = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {version}"]
    metadata += [f"Summary: {project['description']}"]
    metadata += [f"Requires-Dist: {needed}" for needed in project["dependencies"]]
    points = []
    for group, members in project["entry-points"].items():
        points += [f"[{group}]", *(f"{key} = {value}" for key, value in members.items())]
    wheel = ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    files = {
        "steepest_drop.py": Path("steepest_drop.py").read_bytes(),
        f"{folder}/METADATA": _lines(metadata),
        f"{folder}/WHEEL": _lines(wheel),
        f"{folder}/entry_points.txt": _lines(points),
    }
    record = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[f"{folder}/RECORD"] = _lines([*record, f"{folder}/RECORD,,"])
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / file, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file


def _lines(lines):
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
