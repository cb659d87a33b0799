"""Where a sandbox's first process begins: `python /opt/tci/launcher`."""

import importlib
import sys

# Python looks for modules in the program's own directory; they are to be found as parts of the package.
sys.path[0] = sys.path[0].rpartition("/")[0]
importlib.import_module("launcher.start").main()
