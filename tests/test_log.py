"""Log lines: glog's format, GLOG_minloglevel, nothing shown by the library itself."""

import logging
import re
import subprocess
import sys
import threading

import pytest

from caffe_bridge import log

LINE = r"{}\d{{4}} \d\d:\d\d:\d\d\.\d{{6}} +\d+ test_log\.py:\d+\] {}\n"


@pytest.fixture
def logger():
    made = logging.getLogger("caffe_bridge")
    yield made
    for handler in [h for h in made.handlers if isinstance(h, log.StderrHandler)]:
        made.removeHandler(handler)
    made.setLevel(logging.NOTSET)


def test_lines_are_those_of_glog(logger, capsys):
    log.show(0)
    log.show(0)  # a second call shows no line twice
    for write, text in ((logger.info, "one"), (logger.warning, "two"), (logger.error, "three"), (logger.fatal, "four")):
        write("%s", text)
    printed = capsys.readouterr().err
    expected = "".join(LINE.format(c, t) for c, t in zip("IWEF", ("one", "two", "three", "four")))
    assert re.fullmatch(expected, printed)


def test_lines_name_their_thread(logger, capsys):
    log.show(0)
    thread = threading.Thread(target=logger.info, args=("from %s", "afar"))
    thread.start()
    thread.join()
    logger.info("from here")
    afar, here = (line.split()[2] for line in capsys.readouterr().err.splitlines())
    assert afar != here and afar.isdecimal() and here.isdecimal()


@pytest.mark.parametrize(
    "value, shown", [("", 4), ("0", 4), ("1", 3), ("2", 2), ("3", 1), ("9", 1), ("-1", 4), ("x", 4)]
)
def test_minimum_level(logger, capsys, monkeypatch, value, shown):
    monkeypatch.setenv("GLOG_minloglevel", value)
    log.show()
    for level in log.LEVELS:
        logger.log(level, "line")
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_importing_the_library_attaches_no_handler():
    code = "import caffe_bridge.pycaffe, logging; assert not logging.getLogger('caffe_bridge').handlers"
    subprocess.run([sys.executable, "-c", code], check=True)
