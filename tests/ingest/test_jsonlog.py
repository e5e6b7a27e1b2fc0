import io
import json
import logging
from datetime import datetime

from hypothesis import given
from hypothesis import strategies as st

from ingest.service import JsonLog

TEXT = st.text(st.characters(codec=None), max_size=30)  # surrogates, line separators, control characters


@given(TEXT, TEXT)
def test_whatever_is_told_is_one_line_of_ascii_that_parses(message, name):
    stream = io.StringIO()
    JsonLog(stream).write("info", "event", message=message, fields={name: [message, 1, None]})
    text = stream.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    line = json.loads(text)
    assert line["message"].isprintable()
    line["message"].encode()  # no lone surrogates


def test_the_fields_and_the_time():
    stream = io.StringIO()
    log = JsonLog(stream)
    log.write(
        "warning", "image_failed", path="a\nb.jpg", count=3, seconds=0.1234567891, ok=True, none=None, bad=float("nan")
    )
    line = json.loads(stream.getvalue())
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        "level": "warning",
        "event": "image_failed",
        "path": "a\\nb.jpg",
        "count": 3,
        "seconds": 0.123457,
        "ok": True,
        "none": None,
        "bad": None,
    }


def test_a_reader_that_has_gone_is_no_error():
    class Gone(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    JsonLog(Gone()).write("info", "event")
    closed = io.StringIO()
    closed.close()
    JsonLog(closed).write("info", "event")


def test_what_libraries_log_becomes_lines_too():
    stream = io.StringIO()
    logger = logging.Logger("store")
    logger.addHandler(JsonLog(stream))
    logger.warning("%s does not answer", "http://x")
    logger.error("lost")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["level"], first["message"], first["logger"]) == ("warning", "http://x does not answer", "store")
    assert second["level"] == "error"


def test_a_signature_in_a_url_is_not_logged():
    stream = io.StringIO()
    logger = logging.Logger("aiohttp")
    logger.addHandler(JsonLog(stream))
    logger.warning("cannot read https://me:secret@host/a.jpg?X-Amz-Signature=secret now")
    assert json.loads(stream.getvalue())["message"] == "cannot read https://host/a.jpg now"
