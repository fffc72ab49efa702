"""Zip a built layer: ``python archive.py FOLDER ZIP``. The same files produce the same bytes on every machine."""

import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

folder, archive = map(Path, sys.argv[1:])
with ZipFile(archive, "w") as zipped:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        entry = ZipInfo(file.relative_to(folder).as_posix())  # dated 1980-01-01, the earliest date in a zip
        entry.external_attr = 0o644 << 16
        zipped.writestr(entry, file.read_bytes(), ZIP_DEFLATED, compresslevel=9)
