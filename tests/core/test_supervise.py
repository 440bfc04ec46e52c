"""A recorded command, started and ended for real: processes, signals, pipes, a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from ledger.errors import UsageError
from ledger.objects import ObjectStore
from ledger.record.capture.console import Console
from ledger.record.capture.secrets import Redactor
from ledger.record.supervise import Exit, supervise, undisturbed
from ledger.record.tracebacks import last_line, root_cause

SECRET = "correct-horse-battery"


class Recorded:
    """A command, supervised; its exit and what it printed."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp_path = tmp_path
        self.shown, self.shown_err = io.BytesIO(), io.BytesIO()
        redactor = Redactor({"MY_TOKEN": SECRET})
        self.console = Console(tmp_path / "spool", redactor, out=self.shown, err=self.shown_err)
        self.objects = ObjectStore((tmp_path / "objects").as_uri(), scratch=tmp_path / "scratch")

    def run(self, *argv: str, **options: object) -> Exit:
        return supervise(
            argv,
            cwd=self.tmp_path,
            environ=dict(os.environ),
            console=self.console,
            **options,  # type: ignore[arg-type]
        )

    def python(self, code: str, *argv: str, **options: object) -> Exit:
        return self.run(sys.executable, "-c", code, *argv, **options)

    @property
    def kept(self) -> bytes:
        return self.objects.get_bytes(self.console.store(self.objects).digest)


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- how it ends


def test_a_command_that_works(recorded: Recorded) -> None:
    found = recorded.python("print('hello'); import sys; sys.stderr.write('world\\n')")
    assert found == Exit(0, None, False, None, None, found.last_line)
    assert recorded.shown.getvalue() == b"hello\n"
    assert recorded.shown_err.getvalue() == b"world\n"
    assert sorted(recorded.kept.splitlines()) == [b"hello", b"world"]


def test_a_failing_command_tells_why(recorded: Recorded) -> None:
    found = recorded.python("def f():\n  raise ValueError('no such layer')\nf()")
    assert (found.code, found.signal) == (1, None)
    assert found.last_traceback is not None
    assert found.last_traceback.startswith("Traceback (most recent call last):")
    assert found.last_traceback.endswith("ValueError: no such layer")
    assert found.last_line == "ValueError: no such layer"


def test_a_code_of_its_own(recorded: Recorded) -> None:
    found = recorded.python("import sys; sys.exit(7)")
    assert (found.code, found.signal, found.last_traceback, found.last_line) == (7, None, None, None)


def test_death_by_a_signal(recorded: Recorded) -> None:
    found = recorded.python("import os; os.kill(os.getpid(), 9)")
    assert (found.code, found.signal, found.interrupted_by, found.stopped) == (None, "SIGKILL", None, False)


def test_a_secret_in_a_traceback_is_withheld(recorded: Recorded) -> None:
    found = recorded.python(f"raise RuntimeError('login with {SECRET} failed')")
    assert found.last_traceback is not None
    assert SECRET not in found.last_traceback
    assert SECRET.encode() in recorded.shown_err.getvalue()
    assert SECRET.encode() not in recorded.kept


# --- what cannot be started


@pytest.mark.parametrize(
    ("argv", "says", "mend"),
    [
        ((), "no command", "--"),
        (("no-such-command-anywhere",), "no such command", "PATH"),
        (("script.py",), "no such command", "python script.py"),
        (("./script.py",), "not executable", "chmod"),
        (("./orphan",), "interpreter", "python ./orphan"),
        (("./text",), "no program", "first line"),
    ],
)
def test_what_cannot_be_started(recorded: Recorded, argv: tuple[str, ...], says: str, mend: str) -> None:
    (recorded.tmp_path / "script.py").write_text("print(1)")
    for name, content in {"orphan": "#!/no/such/python\n", "text": "just text\n"}.items():
        (recorded.tmp_path / name).write_text(content)
        (recorded.tmp_path / name).chmod(0o755)
    with pytest.raises(UsageError, match=says) as caught:
        recorded.run(*argv)
    assert mend in (caught.value.mend or "")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_directory_that_is_not_there(recorded: Recorded) -> None:
    recorded.tmp_path /= "nowhere"
    with pytest.raises(UsageError, match="nowhere does not exist"):
        recorded.run("true")


# --- the console


def test_a_hundred_megabytes_are_kept(recorded: Recorded) -> None:
    found = recorded.python("import sys; [sys.stdout.buffer.write(b'0123456789abcde\\n' * 65536) for _ in range(100)]")
    assert found.code == 0
    expected = sha256(b"0123456789abcde\n" * 65536 * 100).hexdigest()
    captured = recorded.console.store(recorded.objects)
    assert (captured.digest, captured.bytes) == (expected, 100 * 2**20)
    assert sha256(recorded.shown.getvalue()).hexdigest() == expected


def test_bytes_of_any_kind_and_an_unfinished_line_are_kept(recorded: Recorded) -> None:
    blob = bytes(range(256)) * 300 + b"\r 50%\r100% \xff no end"
    recorded.python(f"import sys; sys.stdout.buffer.write(bytes(range(256)) * 300 + {blob[-21:]!r})")
    assert recorded.shown.getvalue() == bytes(range(256)) * 300 + blob[-21:]
    assert recorded.kept == recorded.shown.getvalue()


def test_both_streams_are_kept_in_order_of_arrival(recorded: Recorded) -> None:
    code = (
        "import sys, time\n"
        "for i in range(6):\n"
        "  print(i, file=(sys.stdout, sys.stderr)[i % 2], flush=True)\n"
        "  time.sleep(0.05)\n"
    )
    recorded.python(code)
    assert recorded.kept.split() == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_it_is_shown_while_it_comes(recorded: Recorded) -> None:
    seen: list[bytes] = []

    def tick() -> bool:
        seen.append(recorded.shown.getvalue())
        return b"first" not in seen[-1]

    found = recorded.python("print('first')\nimport time; time.sleep(60)", on_tick=tick)
    assert found.stopped
    assert seen[-1] == b"first\n"


def test_a_secret_cut_in_two_by_the_pipe_is_masked(recorded: Recorded) -> None:
    code = f"import sys, time\nfor c in {SECRET!r}:\n  sys.stdout.write(c); sys.stdout.flush(); time.sleep(0.01)"
    recorded.python(code)
    assert recorded.shown.getvalue().decode() == SECRET
    assert recorded.kept == b"[withheld]"


def test_a_terminal_that_goes_away_does_not_stop_the_command(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as broken:
        console = Console(tmp_path / "spool", Redactor({}), out=broken)
        found = supervise(["echo", "hello"], cwd=tmp_path, environ=dict(os.environ), console=console)
    assert found.code == 0
    assert (tmp_path / "spool").read_bytes() == b"hello\n"


def test_a_full_disk_does_not_stop_the_command(tmp_path: Path) -> None:
    shown = io.BytesIO()
    console = Console(Path("/dev/full"), Redactor({}), out=shown)
    found = supervise(["echo", "hello"], cwd=tmp_path, environ=dict(os.environ), console=console)
    assert (found.code, shown.getvalue()) == (0, b"hello\n")
    assert console.failure is not None


def test_one_that_is_left_behind_with_the_output_does_not_hang_us(recorded: Recorded) -> None:
    started = time.monotonic()
    found = recorded.run("sh", "-c", "sleep 30 & echo $!; echo done")
    assert time.monotonic() - started < 10
    pid, done = recorded.kept.split()
    assert (found.code, done) == (0, b"done")
    assert not gone(int(pid)), "what a command leaves behind when it ends by itself is its own affair"
    os.kill(int(pid), signal.SIGKILL)
    os.waitpid(int(pid), 0)


# --- on_tick


def test_on_tick_stops_it(recorded: Recorded) -> None:
    found = recorded.python("import time; time.sleep(60)", on_tick=lambda: False)
    assert (found.stopped, found.signal, found.interrupted_by) == (True, "SIGTERM", None)


def test_how_it_takes_its_end_is_kept_and_not_shown(recorded: Recorded) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('why me'))\n"
        "print('ready')\ntime.sleep(60)"
    )
    found = recorded.python(code, on_tick=lambda: b"ready" not in recorded.shown.getvalue())
    assert (found.stopped, found.code) == (True, 1)
    assert recorded.shown.getvalue() + recorded.shown_err.getvalue() == b"ready\n"
    assert b"why me" in recorded.kept


def test_one_that_does_not_heed_is_killed_with_its_family(recorded: Recorded) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "a = subprocess.Popen(['sleep', '60'], preexec_fn=lambda: signal.signal(15, signal.SIG_IGN))\n"
        "b = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(a.pid, b.pid, 'ready')\ntime.sleep(60)"
    )
    started = time.monotonic()
    found = recorded.python(code, on_tick=lambda: b"ready" not in recorded.shown.getvalue(), grace_s=0.5)
    assert (found.stopped, found.signal) == (True, "SIGKILL")
    assert 0.5 <= time.monotonic() - started < 10
    for pid in recorded.kept.split()[:2]:
        until(lambda pid=int(pid): gone(pid))


def test_the_family_of_one_that_was_killed_is_ended_too(recorded: Recorded) -> None:
    code = (
        "import os, subprocess\n"
        "b = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "print(b.pid)\nos.kill(os.getpid(), 9)"
    )
    found = recorded.python(code, grace_s=5)
    assert found.signal == "SIGKILL"
    until(lambda: gone(int(recorded.shown.getvalue())))


def test_a_fault_of_on_tick_ends_the_command_and_comes_through(recorded: Recorded) -> None:
    def tick() -> bool:
        if recorded.shown.getvalue():
            raise LookupError("mine")
        return True

    with pytest.raises(LookupError, match="mine"):
        recorded.python("import os, time; print(os.getpid()); time.sleep(60)", on_tick=tick)
    assert gone(int(recorded.shown.getvalue()))


def test_it_works_outside_the_main_thread(recorded: Recorded) -> None:
    found: list[Exit] = []
    thread = threading.Thread(target=lambda: found.append(recorded.run("echo", "hello")))
    thread.start()
    thread.join(30)
    assert found[0].code == 0


def test_handlers_are_what_they_were(recorded: Recorded) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    recorded.run("true")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# --- signals to the parent: a process of its own is the parent

PARENT = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from ledger.record.capture.console import Console
from ledger.record.capture.secrets import Redactor
from ledger.record.supervise import supervise
spool, grace, code = sys.argv[1:]
console = Console(Path(spool), Redactor({}))
found = supervise([sys.executable, "-c", code], cwd=Path.cwd(), environ=dict(os.environ), console=console,
                  grace_s=float(grace))
print("EXIT", json.dumps(asdict(found)), flush=True)
"""
COUNTING = """
import signal, sys, time
def on(number, frame):
    print("got", signal.Signals(number).name)
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(s, on)
print("ready")
deadline = time.monotonic() + {seconds}
while time.monotonic() < deadline:
    time.sleep(0.05)
print("saved")
"""


def parent(tmp_path: Path, code: str, grace_s: float = 20) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "spool"), str(grace_s), code]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def spooled(tmp_path: Path) -> bytes:
    spool = tmp_path / "spool"
    return spool.read_bytes() if spool.exists() else b""


def exit_of(output: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(output.split(b"EXIT ")[1].splitlines()[0])
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_once_and_survived(tmp_path: Path, number: signal.Signals) -> None:
    process = parent(tmp_path, COUNTING.format(seconds=2))
    until(lambda: b"ready" in spooled(tmp_path))
    process.send_signal(number)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert exit_of(output) == asdict(Exit(0, None, False, number.name, None, "saved"))
    assert spooled(tmp_path).count(b"got " + number.name.encode()) == 1


def test_after_the_grace_comes_the_end(tmp_path: Path) -> None:
    process = parent(tmp_path, COUNTING.format(seconds=60), grace_s=0.5)
    until(lambda: b"ready" in spooled(tmp_path))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    found = exit_of(output)
    assert (found["signal"], found["interrupted_by"]) == ("SIGKILL", "SIGTERM")


def test_a_python_command_ends_by_keyboard_interrupt(tmp_path: Path) -> None:
    process = parent(tmp_path, "import time; print('ready'); time.sleep(60)")
    until(lambda: b"ready" in spooled(tmp_path))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    found = exit_of(output)
    assert (found["signal"], found["interrupted_by"], found["last_line"]) == (
        "SIGINT",
        "SIGINT",
        "KeyboardInterrupt",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child's life to its parent's")
def test_the_command_dies_with_its_parent(tmp_path: Path) -> None:
    process = parent(tmp_path, "import os, time; print(os.getpid(), 'ready'); time.sleep(60)")
    until(lambda: b"ready" in spooled(tmp_path))
    child = int(spooled(tmp_path).split()[0])
    process.kill()
    process.communicate(timeout=30)
    until(lambda: gone(child))


def in_a_terminal(tmp_path: Path, code: str) -> tuple[int, int]:
    """The parent with a terminal of its own; its pid and our end of the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", PARENT, str(tmp_path / "spool"), "20", code])
    return pid, terminal


def rest_of(terminal: int) -> bytes:
    output = b""
    try:
        while chunk := os.read(terminal, 65536):
            output += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(terminal)
    return output


def test_control_c_reaches_the_command_once(tmp_path: Path) -> None:
    pid, terminal = in_a_terminal(tmp_path, COUNTING.format(seconds=1.5))
    until(lambda: b"ready" in spooled(tmp_path))
    os.write(terminal, b"\x03")
    found = exit_of(rest_of(terminal))
    os.waitpid(pid, 0)
    assert (found["code"], found["interrupted_by"]) == (0, "SIGINT")
    assert spooled(tmp_path).count(b"got SIGINT") == 1


def test_what_the_user_types_reaches_the_command(tmp_path: Path) -> None:
    pid, terminal = in_a_terminal(tmp_path, "print('ready'); print('so ' + input())")
    until(lambda: b"ready" in spooled(tmp_path))
    os.write(terminal, b"be it\n")
    found = exit_of(rest_of(terminal))
    os.waitpid(pid, 0)
    assert (found["code"], found["last_line"]) == (0, "so be it")


def test_a_command_that_asks_the_terminal_itself_fails_and_does_not_hang(tmp_path: Path) -> None:
    pid, terminal = in_a_terminal(tmp_path, "import os; os.read(os.open('/dev/tty', os.O_RDWR), 1)")
    found = exit_of(rest_of(terminal))
    os.waitpid(pid, 0)
    assert found["code"] == 1
    assert "Input/output error" in str(found["last_traceback"])


# --- which traceback tells why

ONE = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f()\n{}'
ELASTIC = ONE.format(
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    + "=" * 20
    + "\ntrain.py FAILED\n"
    + "=" * 20
)


def test_of_one_process_the_last_traceback_counts() -> None:
    survived, fatal = ONE.format("KeyError: 'a'"), ONE.format("ValueError: b")
    assert root_cause(f"{survived}\ngoing on\n{fatal}\n") == fatal


def test_a_chain_is_one_traceback() -> None:
    chain = (
        ONE.format("KeyError: 'a'")
        + "\n\nDuring handling of the above exception, another exception occurred:\n\n"
        + ONE.format("ValueError: b")
    )
    assert root_cause(f"step 1\n{chain}\n") == chain


def test_a_traceback_that_breaks_off_does_not_count() -> None:
    whole = ONE.format("ValueError: b")
    assert root_cause(f'{whole}\nTraceback (most recent call last):\n  File "a.py", line 1\n') == whole
    assert root_cause('Traceback (most recent call last):\n  File "a.py", line 1\n') is None


def test_an_error_of_syntax_has_no_heading() -> None:
    text = "  File \"a.py\", line 1\n    x = (\n        ^\nSyntaxError: '(' was never closed"
    assert root_cause(text + "\n") == text


def test_a_group_of_exceptions() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "raise ExceptionGroup('two', [ValueError('a'), KeyError('b')])"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert root_cause(f"hello\n{found.stderr}") == found.stderr.rstrip("\n")


def test_of_torchrun_the_cause_counts_not_the_consequence_nor_its_own() -> None:
    def rank(n: int, text: str) -> list[str]:
        return [f"[rank{n}]: {line}" for line in text.splitlines()]

    consequence = rank(0, ONE.format("RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:1234"))
    cause = rank(1, ONE.format("ZeroDivisionError: division by zero"))
    mixed = [line for pair in zip(consequence, cause, strict=True) for line in pair]
    console = "\n".join(["step 1", *mixed, ELASTIC, ""])
    assert root_cause(console) == ONE.format("ZeroDivisionError: division by zero")
    assert root_cause(ELASTIC) == ELASTIC.split("\n=")[0]


def test_a_real_torchrun_tells_the_failing_rank(recorded: Recorded) -> None:
    pytest.importorskip("torch")
    script = recorded.tmp_path / "train.py"
    script.write_text(
        "import torch.distributed as dist, torch\n"
        "dist.init_process_group('gloo')\n"
        "if dist.get_rank() == 1:\n    raise ValueError('bad batch on one rank')\n"
        "dist.all_reduce(torch.ones(1))\n"
    )
    argv = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script))
    found = recorded.run(*argv)
    assert found.code == 1
    assert (found.last_traceback or "").endswith("ValueError: bad batch on one rank")


def test_the_last_line_is_without_colour_and_carriage_return() -> None:
    assert last_line("a\n\x1b[31m 50%\x1b[0m\r\x1b[32m100%\x1b[0m\r\n\n \n") == "100%"
    assert last_line("\n") is None


def test_nothing_comes_between_the_end_of_a_command_and_its_record() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with undisturbed():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is before
