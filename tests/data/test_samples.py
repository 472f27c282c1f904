"""Stacking of samples, classes.txt, the synthetic folder's manifest."""

import pytest
import torch

from datamodules.errors import UserError
from datamodules.samples import (
    Made,
    classes_text,
    collate_episodes,
    collate_scenes,
    collate_segments,
    default_palette,
    ignore_of,
    manifest_line,
    read_classes,
    read_manifest,
)


def scene(name, h=4, w=6):
    image, labels = torch.zeros(3, h, w, dtype=torch.uint8), torch.zeros(h, w, dtype=torch.uint8)
    return {"image": image, "labels": labels, "name": name, "size": (h, w)}


def test_scenes_are_stacked_and_names_listed():
    batch = collate_scenes([scene("a"), scene("b")])
    assert batch["image"].shape == (2, 3, 4, 6) and batch["labels"].shape == (2, 4, 6)
    assert batch["name"] == ["a", "b"] and batch["size"] == [(4, 6), (4, 6)]


def test_scenes_of_different_sizes_say_which_and_what_to_set():
    with pytest.raises(UserError, match="a, b: shapes.*val_batch_size=1"):
        collate_scenes([scene("a"), scene("b", 5)])


def test_segments_stay_lists_of_masks():
    samples = [{"image": torch.zeros(3, 4, 6), "masks": torch.zeros(n, 4, 6, dtype=torch.bool), "name": str(n),
                "classes": torch.zeros(n, dtype=torch.int64), "vocabulary": ["x"], "size": (4, 6)} for n in (0, 3)]
    batch = collate_segments(samples)
    assert batch["image"].shape == (2, 3, 4, 6) and [len(m) for m in batch["masks"]] == [0, 3]


def test_episodes_are_stacked_but_for_the_truth_at_its_own_size():
    samples = [{"query": torch.zeros(3, 8, 8), "query_mask": torch.zeros(8, 8), "supports": torch.zeros(5, 3, 8, 8),
                "support_masks": torch.zeros(5, 8, 8), "class_id": i, "word": "cat", "name": str(i), "size": (9, 7 + i),
                "support_names": list("abcde"), "query_truth": torch.zeros(9, 7 + i)} for i in range(2)]
    batch = collate_episodes(samples)
    assert batch["supports"].shape == (2, 5, 3, 8, 8) and batch["class_id"].tolist() == [0, 1]
    assert [t.shape[1] for t in batch["query_truth"]] == [7, 8]


def test_255_classes_are_the_last_that_fit_eight_bits():
    assert (ignore_of(255), ignore_of(256)) == (255, -1)


def test_classes_may_have_blanks_numbers_and_colours():
    assert read_classes("sky\ntraffic light\narea 51\n") == (["sky", "traffic light", "area 51"], None)
    names, colours = ["sky", "traffic light"], [(1, 2, 3), (255, 0, 0)]
    assert read_classes(classes_text(names, colours)) == (names, colours)


@pytest.mark.parametrize("text, said", [
    ("", "no classes"), ("a\n\nb\n", "line 2 is empty"), ("a 1 2 3\nb\n", "class b has no colour"),
    ("a 1 2 300\n", "line 1.*0 to 255"), ("a 1 2 3\nb 1 2 3\n", "two classes"),
])
def test_a_wrong_classes_file_says_where(text, said):
    with pytest.raises(UserError, match=f"classes.txt: .*{said}"):
        read_classes(text, "classes.txt")


def test_the_default_palette_is_vocs():
    assert default_palette(22)[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert default_palette(21)[20] == (0, 64, 128)                # tvmonitor
    assert len(set(default_palette(256))) == 256


def test_a_manifest_reads_back_and_a_torn_last_line_is_left_out():
    row = Made(name="a", source="s", word="Bär", seed=3, prompt="a photo", weights="0f", filter={"share": 0.5})
    text = manifest_line(row) * 2
    assert read_manifest(text) == [row, row]
    assert read_manifest(text + text[:20]) == [row, row]
    with pytest.raises(UserError, match="manifest.jsonl: line 2 is not JSON"):
        read_manifest(manifest_line(row) + "{oops\n" + manifest_line(row), "manifest.jsonl")
    with pytest.raises(UserError, match="lacks"):
        read_manifest('{"name": "a"}\n')
