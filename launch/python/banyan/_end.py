# SPDX-License-Identifier: Apache-2.0
"""All ranks end when one raises.

Without this the ranks that raised nothing wait for the others until the time limit. A process that
ends without having finalised MPI is what every launcher takes for a failed rank; it ends the others
(under srun with --kill-on-bad-exit, which launch/banyan.sbatch gives).
"""
import os
import sys
import traceback


def _rank():
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        if name in os.environ:
            return os.environ[name]
    return "0"


def _leave(code):
    """Past the exit hooks, which would wait for ranks that never come."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def together(main, *arguments):
    """Calls main; a traceback is printed with the rank and ends the job with exit code 1, a
    SystemExit with its own, Ctrl-C with 130."""
    try:
        main(*arguments)
    except SystemExit as end:
        if end.code is None or end.code == 0:
            raise
        if not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
        _leave(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:  # Ctrl-C too
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        sys.stderr.write("".join(f"[rank {_rank()}] {line}\n" for line in
                                 text.rstrip("\n").split("\n")))
        _leave(130 if isinstance(error, KeyboardInterrupt) else 1)
