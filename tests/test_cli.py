"""The console command: listing and finding verbs, and how errors reach the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import caffe_bridge
from caffe_bridge import cli, registry
from caffe_bridge.errors import WeightsError

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from caffe_bridge.cli import run
from caffe_bridge.errors import WeightsError

def main(argv=None):
    {body}

if __name__ == "__main__":
    sys.exit(run(main))
"""


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["caffe-bridge"])


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A package caffe_bridge.tools of two verbs and a helper in place of the real one."""
    (tmp_path / "draw_net.py").write_text(
        '"""Draw a net.\n\nMore."""\nimport absent_module\ndef main(argv=None):\n    return 0\n'
    )
    (tmp_path / "count.py").write_text('"""Count arguments."""\ndef main(argv=None):\n    return len(argv)\n')
    (tmp_path / "caffe_time.py").write_text('"""Time a net."""\ndef main(argv=None):\n    return 7\n')
    (tmp_path / "_shared.py").write_text('"""Not a verb."""\ndef main(argv=None):\n    return 1\n')
    package = type(sys)("caffe_bridge.tools")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "caffe_bridge.tools", package)
    names = [f"caffe_bridge.tools.{name}" for name in ("count", "caffe_time", "draw_net")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


def run_script(tmp_path, body, **options):
    (tmp_path / "tool.py").write_text(SCRIPT.format(body=body))
    command = [sys.executable, str(tmp_path / "tool.py")]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, **options)


def test_verbs_are_read_without_importing(tools):
    assert cli.verbs() == {"count": "Count arguments.", "draw-net": "Draw a net.", "time": "Time a net."}


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_verbs(tools, arguments, capsys):
    assert cli.main(arguments) == 0
    listing = capsys.readouterr().out
    assert "  count     Count arguments.\n  draw-net  Draw a net.\n" in listing


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"caffe-bridge {caffe_bridge.__version__}\n"


def test_verb_gets_its_arguments_and_gives_its_status(tools):
    assert cli.main(["count", "a", "b", "c"]) == 3
    assert sys.argv == ["caffe-bridge count", "a", "b", "c"]
    assert cli.main(["time"]) == 7


def test_verbs_may_have_underscores_as_caffes_programs_do(tools):
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        cli.main(["draw_net"])


def test_unknown_verb_names_the_nearest(tools, capsys):
    assert cli.main(["drawnet"]) == 2
    assert capsys.readouterr().err == "caffe-bridge: error: unknown verb 'drawnet'; did you mean 'draw-net'?\n"
    assert cli.main(["zzz"]) == 2
    assert "`caffe-bridge --help` lists the verbs" in capsys.readouterr().err


def test_caffe_error_is_one_line_and_status_2(monkeypatch, capsys):
    def main(argv):
        raise WeightsError("a.caffemodel: truncated\n  at byte 12")

    monkeypatch.setattr(sys, "argv", ["caffe-bridge convert"])
    assert cli.run(main, []) == 2
    assert capsys.readouterr().err == "caffe-bridge convert: error: a.caffemodel: truncated at byte 12\n"


def test_missing_file_is_one_line_and_status_2(tmp_path, capsys):
    assert cli.run(lambda argv: open(tmp_path / "absent.prototxt").close()) == 2
    assert capsys.readouterr().err == f"caffe-bridge: error: {tmp_path}/absent.prototxt: No such file or directory\n"


def test_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda argv: 1 // 0)
    with pytest.raises(OSError, match="no file named"):
        cli.run(lambda argv: (_ for _ in ()).throw(OSError("no file named")))


def test_interrupt_is_130():
    def main(argv):
        raise KeyboardInterrupt

    assert cli.run(main) == 130


def test_script_reports_errors_as_the_command_does(tmp_path):
    done = run_script(tmp_path, "raise WeightsError('bad')")
    assert (done.returncode, done.stderr) == (2, "tool.py: error: bad\n")


def test_closed_pipe_is_quiet(tmp_path):
    (tmp_path / "tool.py").write_text(SCRIPT.format(body="print('line\\n' * 100000)"))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "tool.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(4)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_info_as_command_and_as_script(capsys):
    assert cli.main(["info"]) == 0
    as_command = capsys.readouterr().out
    assert f"caffe-bridge     {caffe_bridge.__version__}\n" in as_command
    assert "native kernels   " in as_command
    assert int(as_command.split()[-1]) == len(registry.layer_types())
    as_script = subprocess.run([sys.executable, str(ROOT / "tools" / "info.py")], capture_output=True, text=True)
    assert as_script.returncode == 0, as_script.stderr
    assert [line.split()[0] for line in as_script.stdout.splitlines()] == [
        line.split()[0] for line in as_command.splitlines()
    ]
