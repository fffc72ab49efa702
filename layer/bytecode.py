"""Adds byte-code to a built layer: ``python bytecode.py FOLDER``, by each Python that is to find it there.

/opt is read-only on Lambda: what is not compiled here is compiled anew in every cold start. It is shared by all layers of a
function, so that a module can lie over another's byte-code: checked-hash byte-code belongs to one source and to no other.
"""

import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile

folder = Path(sys.argv[1])
for module in sorted(folder.rglob("*.py")):
    mounted = f"/opt/python/{module.relative_to(folder)}"  # what tracebacks tell, and the same wherever it is built
    compile(str(module), dfile=mounted, doraise=True, optimize=0, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
