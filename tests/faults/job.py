# SPDX-License-Identifier: Apache-2.0
"""A job of ranks under mpirun, what may be done to it, and what is left of it. What it writes by itself is
in `folder`, everything else (stdout, stderr, MPI's own files) in `folder`.aside."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MPIRUN = os.path.join(HERE, '..', '..', 'launch', 'mpirun-here')


class Job:
    """`command` on `ranks` ranks, in `folder`; its processes carry the folder's name in their environment."""

    def __init__(self, folder, ranks, command, before=(), environment=None, stdout=None, launcher=None):
        self.folder, self.ranks, self.aside = folder, ranks, folder + '.aside'
        os.makedirs(self.aside, exist_ok=True)
        self.tag = 'BANYAN_FAULT_CASE=' + folder
        settings = dict(os.environ, BANYAN_FAULT_CASE=folder, TMPDIR=self.aside, OMP_NUM_THREADS='1',
                        OPENBLAS_NUM_THREADS='1', OMP_WAIT_POLICY='passive', **(environment or {}))
        self.error = open(os.path.join(self.aside, 'stderr'), 'w+b')
        self.output = stdout or open(os.path.join(self.aside, 'stdout'), 'w+b')
        start = launcher or [MPIRUN, str(ranks)]
        self.begin = time.monotonic()
        self.process = subprocess.Popen(list(before) + start + command, cwd=folder, env=settings,
                                        stdout=self.output, stderr=self.error,
                                        stdin=subprocess.DEVNULL, start_new_session=True)
        self.seconds = None

    def running(self):
        """Process ids of this job: {pid: rank, None for mpirun and its helpers}."""
        found, tag = {}, self.tag.encode()
        for entry in os.listdir('/proc'):
            if not entry.isdigit():
                continue
            try:
                with open('/proc/%s/environ' % entry, 'rb') as f:
                    words = f.read().split(b'\0')
                with open('/proc/%s/stat' % entry) as f:
                    state = f.read().rsplit(')', 1)[1].split()[0]
                with open('/proc/%s/comm' % entry) as f:
                    name = f.read().strip()
            except OSError:
                continue
            if tag not in words or state == 'Z':
                continue
            told = [w for w in words if w.startswith(b'OMPI_COMM_WORLD_RANK=')]
            found[int(entry)] = int(told[0].split(b'=')[1]) if told and name == 'banyan' else None
        return found

    def ranks_running(self):
        return {rank for rank in self.running().values() if rank is not None}

    def who(self):
        """What runs, in words: which rank, and its state (T: it stands still)."""
        words = []
        for pid, rank in self.running().items():
            try:
                with open('/proc/%d/stat' % pid) as f:
                    name, state = f.read().split('(', 1)[1].rsplit(')', 1)
            except OSError:
                continue
            words.append('%s %s' % (name if rank is None else 'rank %d' % rank, state.split()[0]))
        return ', '.join(words) or 'nobody'

    def rank(self, number, seconds=5):
        """The process of a rank, waited for while the job goes on; None: it has ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            for pid, rank in self.running().items():
                if rank == number:
                    return pid
            time.sleep(.005)
        return None

    def await_launcher(self, seconds=5):
        """Until the launcher is no shell script any more: a shell that has a signal when it execs loses it."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with open('/proc/%d/comm' % self.process.pid) as f:
                    if f.read().strip() in ('mpirun', 'orterun', 'prterun', 'mpiexec'):
                        return
            except OSError:
                pass
            time.sleep(.002)

    def send(self, number, what):
        pid = self.rank(number)
        if pid is None:
            return False
        try:
            os.kill(pid, what)
        except ProcessLookupError:
            return False
        return True

    def wait(self, limit):
        """The exit code; None after `limit` seconds, and then all of it is killed."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        self.seconds = time.monotonic() - self.begin
        return code

    def left_over(self, seconds=4):
        """What still runs some seconds after the end; it is killed."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            time.sleep(.05)
        left = self.running()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return left

    def words(self):
        self.error.flush()
        with open(os.path.join(self.aside, 'stderr'), errors='replace') as f:
            return f.read()


def maps(pid, name):
    """Is a file of that name mapped there?"""
    try:
        with open('/proc/%d/maps' % pid) as f:
            return name in f.read()
    except OSError:
        return False


def scratch():
    return tempfile.mkdtemp(prefix='banyan_faults_')


def remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder + '.aside', ignore_errors=True)


def lines_of(path):
    """The JSON lines of a file: (objects, None), or (None, what is wrong)."""
    try:
        with open(path, 'rb') as f:
            text = f.read()
    except FileNotFoundError:
        return [], None
    if text and not text.endswith(b'\n'):
        return None, '%s ends in the middle of a line' % os.path.basename(path)
    try:
        return [json.loads(line) for line in text.split(b'\n')[:-1]], None
    except ValueError as e:
        return None, '%s: %s' % (os.path.basename(path), e)
