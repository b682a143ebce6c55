"""`python -m vlv` is the command `vlv`."""

import sys

# Before anything else is imported, and in syntax that an old interpreter reads too.
if sys.version_info < (3, 11):  # noqa: UP036 - a clone can be run without pip, which would refuse
    sys.stderr.write("error: Python %d.%d is too old: vlv needs 3.11 or newer\n" % sys.version_info[:2])  # noqa: UP031
    sys.exit(2)

from vlv.cli.main import main

if __name__ == "__main__":
    main()
