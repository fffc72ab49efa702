"""Compile a built layer to byte-code: ``python bytecode.py FOLDER``. Run it with each Python version to support.

Lambda mounts layers read-only, so every cold start would compile what is not compiled here. Another layer can replace a module
and leave its byte-code in place. Python checks the hash in the byte-code, and ignores byte-code of another source.
"""

import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile

folder = Path(sys.argv[1])
for module in sorted(folder.rglob("*.py")):
    mounted = f"/opt/python/{module.relative_to(folder)}"  # the path in tracebacks; the same on every machine
    compile(str(module), dfile=mounted, doraise=True, optimize=0, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
