"""Class lists with synonyms: their format, where they come from, what stands in for them."""

import hashlib
import json

import pytest

from datamodules import vocabulary
from datamodules.errors import UserError
from datamodules.vocabulary import COMMIT, LISTS, REPOSITORY, ClassList, names_of, published, read_vocabulary

TEXT = "0:invalid_class_id\n1:wall,walls, brick wall\n2:pot\n4:pot,flowerpot\n5:arctic (type of shoe),tea: black"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A list of four classes, published in place of ADE20K's; its folder."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "four.txt").write_text(TEXT)
    sha = hashlib.sha256(TEXT.encode()).hexdigest()
    monkeypatch.setitem(LISTS, "ade20k_150", ClassList("four.txt", sha))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "lists"


# -- the format
def test_each_class_has_its_names_in_order_and_names_may_repeat():
    assert read_vocabulary(TEXT) == [["wall", "walls", "brick wall"], ["pot"], ["pot", "flowerpot"],
                                     ["arctic (type of shoe)", "tea: black"]]


def test_numbers_that_are_no_class_are_dropped_wherever_they_stand_and_0_may_be_one():
    assert read_vocabulary("1:a\n2:invalid_class_id\n90:b\n") == [["a"], ["b"]]
    assert read_vocabulary("0:background,thing\n1:a") == [["background", "thing"], ["a"]]


def test_a_list_of_ones_own_needs_no_numbers():
    assert read_vocabulary("sky\n\ntraffic light,stoplight\n") == [["sky"], ["traffic light", "stoplight"]]


@pytest.mark.parametrize("text, said", [
    ("", "no classes"), ("1:a\nb\n", "line 2 has no `number:`"), ("1:a\n1:b", "line 2 is class 1 after 1"),
    ("2:a\n1:b", "line 2 is class 1 after 2"), ("1:a,,b", "line 1 has an empty name"), ("1:", "line 1 has an empty name"),
])
def test_a_wrong_list_says_where(text, said):
    with pytest.raises(UserError, match=f"^my.txt: .*{said}"):
        read_vocabulary(text, "my.txt")


# -- where it comes from
@pytest.mark.parametrize("above", ["", "openvocab"])
def test_a_local_folder_may_be_the_lists_or_hold_openvocab(listed, above):
    folder = listed
    if above:
        (listed / above).mkdir()
        (listed / "four.txt").rename(listed / above / "four.txt")
    assert [names[0] for names in published("ade20k_150", str(folder))] == ["wall", "pot", "pot", "arctic (type of shoe)"]


def test_a_changed_local_list_is_refused_and_can_be_given_as_ones_own(listed):
    (listed / "four.txt").write_text(TEXT + "\n6:more")
    with pytest.raises(UserError, match="four.txt: not the published list .*data.vocabulary="):
        published("ade20k_150", str(listed))
    assert len(names_of(str(listed / "four.txt"), "ade20k_150", None, 5, str(listed))) == 5


def test_a_folder_without_the_list_is_an_error_not_a_fallback(tmp_path):
    with pytest.raises(UserError, match="no ade20k_150_with_prompt_eng.txt"):
        names_of("published", "ade20k_150", ["wall"], 1, str(tmp_path))


def test_it_is_downloaded_from_the_named_commit_into_the_cache_and_checked(listed, tmp_path, monkeypatch):
    asked = []

    def download(url, path, sha256):
        asked.append((url, path, sha256))
        return listed / "four.txt"

    monkeypatch.setattr(vocabulary, "download", download)
    assert len(published("ade20k_150", None)) == 4
    url, path, sha256 = asked[0]
    assert url == f"https://raw.githubusercontent.com/{REPOSITORY}/{COMMIT}/fcclip/data/datasets/four.txt"
    assert path == tmp_path / "cache" / "lists" / "openvocab" / "four.txt" and sha256 == LISTS["ade20k_150"].sha256


def test_a_list_in_the_cache_serves_offline(listed, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    (tmp_path / "cache" / "lists" / "openvocab").mkdir(parents=True)
    (listed / "four.txt").rename(tmp_path / "cache" / "lists" / "openvocab" / "four.txt")
    assert len(names_of("published", "ade20k_150", None, 4, None)) == 4


# -- what stands in for it
def test_without_the_list_plain_names_stand_in_and_this_is_said(listed, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert names_of("published", "ade20k_150", ["a", "b"], 2, None) == [["a"], ["b"]]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "ade20k_150 cannot be had" in said and "the set's plain names" in said


def test_a_set_without_plain_names_needs_the_list_or_counts(listed, monkeypatch, capsys):
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(UserError, match="offline.*data.lists=.*data.vocabulary=null for numbers"):
        names_of("published", "ade20k_150", None, 2, None)
    assert names_of(None, "ade20k_150", None, 2, None) == [["class 0"], ["class 1"]]
    assert "called by their numbers" in capsys.readouterr().out
    assert names_of(None, "ade20k_150", ["x", "y"], 2, None) == [["x"], ["y"]] and not capsys.readouterr().out


def test_a_list_of_another_length_or_none_at_all_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("sky\nroad\n")
    with pytest.raises(UserError, match="mine.txt: 2 classes instead of 3"):
        names_of(str(tmp_path / "mine.txt"), "", None, 3, None)
    with pytest.raises(UserError, match="nowhere.txt: no such list .*`published` or a text file"):
        names_of(str(tmp_path / "nowhere.txt"), "", None, 3, None)
    (tmp_path / "mine.txt").write_bytes(b"stra\xdfe\n")
    with pytest.raises(UserError, match="mine.txt: not UTF-8"):
        names_of(str(tmp_path / "mine.txt"), "", None, 1, None)


# -- the real ones
COUNTS = {"ade20k_150": (150, 403), "ade20k_847": (847, 1342), "pascal_ctx_59": (59, 160), "pascal_ctx_459": (459, 559),
          "pascal_voc_21": (21, 153), "pascal_voc_20": (20, 79), "coco_panoptic": (133, 254), "coco_stuff": (171, 328),
          "lvis_1203": (1203, 1825)}


def test_every_published_list_has_a_count_here():
    assert COUNTS.keys() == LISTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_lists_have_their_classes_and_names(shared, name):
    folder = shared / "data" / "lists"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    classes = published(name, str(folder))
    assert (len(classes), sum(map(len, classes))) == COUNTS[name]
    assert all(word and word == word.strip() and "invalid" not in word for names in classes for word in names)
    source = json.loads((folder / "sources.json").read_text())[f"openvocab/{LISTS[name].file}"]
    assert (source["repo"], source["commit"], source["sha256"]) == (REPOSITORY, COMMIT, LISTS[name].sha256)
    assert source["path"] == f"{vocabulary.BELOW}/{LISTS[name].file}"


def test_first_names_of_the_847_repeat(shared):
    folder = shared / "data" / "lists"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    first = [names[0] for names in published("ade20k_847", str(folder))]
    assert len(first) - len(set(first)) == 10
