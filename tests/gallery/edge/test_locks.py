"""The turnstile's words for those who wait."""

import subprocess
import sys

from siamese_search.gallery.edge import locks


def test_a_holder_is_named_without_the_signature_of_its_url():
    words = [sys.executable, "-c", "print(flush=True);input()", "--root=https://me:secret@h/a?sig=secret"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        shown = locks._command(child.pid)
        child.communicate(b"\n")
    assert shown.endswith("--root=https://h/a)")
