import os

from ingest.watching.events import Settling, signature_of


def test_a_path_settles_once_it_has_been_quiet_for_so_long(tmp_path):
    (tmp_path / "a").write_text("x")
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("a", 10.0)
    assert not settling.due(10.9)
    assert list(settling.settled(10.9)) == []
    assert settling.due(11.0)
    assert list(settling.settled(11.0)) == ["a"]
    assert len(settling) == 0
    assert not settling.due(99.0)


def test_an_event_begins_the_wait_anew(tmp_path):
    (tmp_path / "a").write_text("x")
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("a", 10.0)
    settling.touch("a", 10.8)
    assert list(settling.settled(11.5)) == []
    assert len(settling) == 1
    assert list(settling.settled(11.8)) == ["a"]


def test_a_file_that_grew_without_an_event_waits_on(tmp_path):
    (tmp_path / "a").write_text("x")
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("a", 10.0)
    for second in range(11, 20):
        with (tmp_path / "a").open("a") as file:
            file.write("more")
        assert list(settling.settled(float(second))) == []
    assert list(settling.settled(20.0)) == ["a"]


def test_a_file_of_the_same_size_but_another_time_or_inode_waits_on(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("a", 10.0)
    os.utime(path, ns=(1, 1))
    assert list(settling.settled(11.0)) == []
    (tmp_path / "b").write_text("y")
    os.utime(tmp_path / "b", ns=(1, 1))
    (tmp_path / "b").replace(path)
    assert list(settling.settled(12.0)) == []
    assert list(settling.settled(13.0)) == ["a"]


def test_what_is_gone_settles_too_and_what_comes_back_waits(tmp_path):
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("gone", 10.0)
    settling.touch("back", 10.0)
    (tmp_path / "back").write_text("x")
    assert list(settling.settled(11.0)) == ["gone"]
    assert list(settling.settled(12.0)) == ["back"]


def test_a_directory_settles_while_files_come_into_it(tmp_path):
    (tmp_path / "d").mkdir()
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("d", 10.0)
    (tmp_path / "d" / "new").write_text("x")
    assert list(settling.settled(11.0)) == ["d"]


def test_those_that_waited_longest_come_first_and_the_rest_stays_when_the_reader_stops(tmp_path):
    settling = Settling(str(tmp_path), 1.0)
    for number, path in enumerate(["c", "a", "b"]):
        settling.touch(path, 10.0 + number)
    found = settling.settled(20.0)
    assert next(found) == "c"
    found.close()
    assert len(settling) == 2
    assert list(settling.settled(20.0)) == ["a", "b"]


def test_clear_forgets_all(tmp_path):
    settling = Settling(str(tmp_path), 1.0)
    settling.touch("a", 10.0)
    settling.clear()
    assert len(settling) == 0
    assert list(settling.settled(99.0)) == []


def test_a_link_that_leads_nowhere_is_not_there(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert signature_of(str(tmp_path / "link")) is None
