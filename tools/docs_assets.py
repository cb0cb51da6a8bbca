"""Puts what the site serves beside its pages under docs/vendor.

The files come from the npm registry through `npm pack`, each package at one
version whose archive has one hash. Nothing is asked of a server afterwards.
"""

import base64
import hashlib
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

VENDOR = pathlib.Path(__file__).parents[1] / "docs" / "vendor"

# Package at a version: SHA-512 of its archive, and the files that are served.
PACKAGES = {
    "katex@0.19.1": (
        "jG8uKntjSEcm2EpQOh0XturpPuuC9r3Sq5HLHdsFdWZT"
        "27E672SF19QEi+of0/YeOy15lDgRhKvr5614uRrEfA==",
        ["LICENSE", "dist/katex.min.css", "dist/katex.min.js", "dist/fonts"],
    ),
    "d3@7.9.2": (
        "ZKb/mONPVKzaO5UlcWcwN8bS4ezvQaYu+bsou+XgNABd"
        "GC800kwH651ADTbbTxMPHW13UlvbQafdmJQDk1w7Mg==",
        ["LICENSE", "dist/d3.min.js"],
    ),
    "@observablehq/plot@0.6.17": (
        "/qaXP/7mc4MUS0s4cPPFASDRjtsWp85/TbfsciqDgU1H"
        "wYixbSbbytNuInD8AcTYC3xaxACgVX06agdfQy9W+g==",
        ["LICENSE", "dist/plot.umd.min.js"],
    ),
}


def fetch(package: str, sha512: str, folder: pathlib.Path) -> pathlib.Path:
    """Returns the unpacked archive of a package."""
    command = ["npm", "pack", "--silent", "--pack-destination", folder, package]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    found = base64.b64encode(digest).decode()
    if found != sha512:
        raise SystemExit(f"{package} has SHA-512 {found}, expected {sha512}.")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / "package"


def keep(source: pathlib.Path, names: list[str], target: pathlib.Path) -> None:
    """Copies the files that are served; of the fonts, the woff2 ones."""
    target.mkdir(parents=True)
    for name in names:
        path = source / name
        if path.is_dir():
            (target / path.name).mkdir()
            for font in path.glob("*.woff2"):
                shutil.copy(font, target / path.name)
        else:
            shutil.copy(path, target)


def main() -> None:
    """Fetches every package anew."""
    shutil.rmtree(VENDOR, ignore_errors=True)
    for package, (sha512, names) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            source = fetch(package, sha512, pathlib.Path(folder))
            name = package.rpartition("@")[0].rpartition("/")[2]
            keep(source, names, VENDOR / name)
    (VENDOR / "ready").touch()


if __name__ == "__main__":
    main()
