# SPDX-License-Identifier: Apache-2.0
"""python -m banyan SCRIPT [ARGS ..], or -m MODULE, or -c TEXT: runs it so that all ranks of an MPI
job end when one raises."""
import os
import runpy
import sys

from ._end import together


def main(arguments):
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments[0] in ("-m", "-c") and len(arguments) < 2:
        sys.exit(f"python -m banyan {arguments[0]}: what to run is missing")
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


together(main, sys.argv[1:])
