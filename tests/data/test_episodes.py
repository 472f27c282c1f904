"""Few-shot episodes: the published ones to the letter, training's as functions of (seed, visit), sets in their official trees."""

import hashlib
import json
import pickle
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.coco import THINGS
from datamodules.demo.episodes import DemoEpisodes
from datamodules.demo.world import FOLDS, NOVEL, OBJECT_WORDS, RARE
from datamodules.episodes import HSNET, Drawn, ObjectPictures, Plan, Pool, view
from datamodules.errors import UserError
from datamodules.folds import COCO_CLASSES, Coco20i, Lvis92i, Pascal5i
from datamodules.fss1000 import FSS1000, FolderEpisodes
from tests.conftest import ROOT

SIZE = {"size": 8, "workers": 0}


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photo(number, size=(12, 16)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)


def square(value, size=(12, 16), rows=slice(2, 9)):
    mask = np.zeros(size, np.uint8)
    mask[rows, 3:11] = value
    return mask


# -- generated trees and lists, in the published formats
def voc_lists(folder, per_class=7):
    """Class c (from 1) has pictures c_0, c_1, ...; they follow one another like the cards of a shuffled pack."""
    for side in ("trn", "val"):
        for fold in range(4):
            lines = [f"{side}{c}_{k}__{c:02d}" for c in range(5 * fold + 1, 5 * fold + 6) for k in range(per_class)]
            path = folder / "pascal" / side / f"fold{fold}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(np.random.default_rng(fold).permutation(lines)) + "\n")
    return folder


def coco_lists(folder, per_class=9):
    for side, year in (("trn", "train2014"), ("val", "val2014")):
        for fold in range(4):
            held = lambda c, fold=fold, side=side: (c % 4 == fold) == (side == "val")
            names = {c: [f"{year}/COCO_{year}_{c * 100 + k:012d}.jpg" for k in range(per_class + c % 3)] if held(c) else []
                     for c in range(80)}
            path = folder / "coco" / side / f"fold{fold}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(names, protocol=3))
    return folder


def fss_lists(folder, words=(("ant", "bee"), ("cow",), ("dog", "abe's_fish"))):
    (folder / "fss").mkdir(parents=True, exist_ok=True)
    for side, names in zip(("trn", "val", "test"), words):
        (folder / "fss" / f"{side}.txt").write_text("\n".join(names))
    return folder


def class_folders(root, words, count=10, white=255, fill=square):
    for number, word in enumerate(words):
        for k in range(1, count + 1):
            put(root / word / f"{k}.jpg", photo(100 * number + k))
            put(root / word / f"{k}.png", fill(white))
    return root


def lvis_json(root, side, pictures, thing):
    """Pictures 1, 2, ... of 16 x 12; thing(number) gives (category, polygon) pairs."""
    names = [f"thing_{c}" for c in range(1, 25)]
    shown = [(number, *each) for number in range(1, pictures + 1) for each in thing(number)]
    document = {
        "images": [{"id": n, "coco_url": f"http://images/{side}2017/{n:012d}.jpg", "height": 12, "width": 16}
                   for n in range(1, pictures + 1)],
        "categories": [{"id": c, "name": name} for c, name in reversed(list(enumerate(names, 1)))],
        "annotations": [{"id": i, "image_id": n, "category_id": c, "segmentation": [polygon], "area": 1, "bbox": [0, 0, 1, 1]}
                        for i, (n, c, polygon) in enumerate(shown, 1)],
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / f"lvis_v1_{side}.json").write_text(json.dumps(document))
    for n in range(1, pictures + 1):
        put(root / f"{side}2017" / f"{n:012d}.jpg", photo(n))


# -- the published episodes
def digest(plans):
    return hashlib.sha256("".join(f"{c}\t{q}\t{' '.join(s)}\n" for c, q, s in plans).encode()).hexdigest()


@pytest.fixture(scope="module")
def fss_tree(tmp_path_factory):
    """FSS-1000's names without a picture: its episodes follow from these."""
    from tests.conftest import shared_folder

    lists = shared_folder() / "data" / "lists" / "hsnet" / "fss"
    root = tmp_path_factory.mktemp("fss")
    for word in (lists / "test.txt").read_text().split() if lists.is_dir() else []:
        (root / "data" / word).mkdir(parents=True)
        for k in range(1, 11):
            (root / "data" / word / f"{k}.jpg").touch(), (root / "data" / word / f"{k}.png").touch()
    return root


@pytest.mark.parametrize("name", [f"{s}/fold{f}/{n}shot" for s, shots in (("coco", (1, 5, 10)), ("pascal", (1, 5)))
                                  for f in range(4) for n in shots] + ["fss/test/1shot", "fss/test/5shot"])
def test_the_episodes_are_those_of_the_papers(shared, tmp_path, fss_tree, name):
    fixture, lists = shared / "parity" / "diffews_episodes.json", shared / "data" / "lists" / "hsnet"
    if not (fixture.is_file() and lists.is_dir()):
        pytest.skip(f"no {fixture} or {lists}")
    case = json.loads(fixture.read_text())["cases"][name]
    kind, part, shots = name.split("/")
    settings = {"shots": int(shots.removesuffix("shot")), "lists": str(lists.parent)}
    if kind == "fss":
        data = FSS1000(root=str(fss_tree), **settings)
    else:
        kinds = {"coco": Coco20i, "pascal": Pascal5i}
        data = kinds[kind](root=str(tmp_path), fold=int(part.removeprefix("fold")), **settings)
    plans = data.plans("test")
    assert [list(plan) for plan in plans[:20]] == case["first"] and list(plans[-1]) == case["last"]
    assert len(plans) == case["n"] and digest(plans) == case["sha256"] and digest(plans[:100]) == case["sha256_first_100"]
    assert data.class_ids("test") == case["classes"]


def choose(rng, values):
    return rng.choice(values, 1, replace=False)[0]


def supports_by_choice(rng, names, query, shots):
    supports = []
    while len(supports) < shots:
        name = choose(rng, names)
        if name != query:
            supports.append(name)
    return supports


@pytest.mark.parametrize("fold, shots, seed", [(0, 1, 0), (2, 5, 7), (3, 3, 123)])
def test_coco_episodes_of_any_fold_and_seed_follow_numpys_choice(tmp_path, fold, shots, seed):
    lists = coco_lists(tmp_path)
    data = Coco20i(root=str(tmp_path), lists=str(lists), fold=fold, shots=shots, seed=seed, episodes=60)
    table, rng, expected = pickle.loads((lists / f"coco/val/fold{fold}.pkl").read_bytes()), np.random.RandomState(seed), []
    for _ in range(60):
        class_id = int(choose(rng, [fold + 4 * v for v in range(20)]))
        query = choose(rng, table[class_id])
        expected.append(Plan(class_id, query, supports_by_choice(rng, table[class_id], query, shots)))
    assert data.plans("test") == expected != Coco20i(root=str(tmp_path), lists=str(lists), fold=fold, shots=shots, seed=seed + 1,
                                                     episodes=60).plans("test")
    assert COCO_CLASSES[0] == "person" and COCO_CLASSES[79] == "toothbrush" and len(set(COCO_CLASSES)) == 80


@pytest.mark.parametrize("fold, shots, seed", [(0, 1, 0), (1, 5, 7), (3, 2, 123)])
def test_pascal_episodes_of_any_fold_and_seed_follow_numpys_choice(tmp_path, fold, shots, seed):
    lists = voc_lists(tmp_path)
    data = Pascal5i(root=str(tmp_path), lists=str(lists), fold=fold, shots=shots, seed=seed, episodes=80)
    lines = [line.split("__") for line in (lists / f"pascal/val/fold{fold}.txt").read_text().split()]
    rng, expected = np.random.RandomState(seed), []
    for i in range(80):
        query, number = lines[i % len(lines)]
        names = [stem for stem, other in lines if other == number]
        expected.append(Plan(int(number) - 1, query, supports_by_choice(rng, names, query, shots)))
    assert data.plans("test") == expected


@pytest.mark.parametrize("shots, seed", [(1, 0), (5, 9)])
def test_fss_episodes_of_any_seed_follow_numpys_choice_of_the_numbers(tmp_path, shots, seed):
    root, lists = class_folders(tmp_path / "FSS-1000" / "data", ("dog", "abe's_fish")), fss_lists(tmp_path / "lists")
    data = FSS1000(root=str(tmp_path), lists=str(lists), shots=shots, seed=seed)
    rng, expected = np.random.RandomState(seed), []
    for class_id, word in ((3, "abe's_fish"), (4, "dog")):
        for query in sorted(path.name for path in (root / word).glob("*.jpg")):
            supports, number = [], int(query.removesuffix(".jpg"))
            while len(supports) < shots:
                if (k := choose(rng, range(1, 11))) != number:
                    supports.append(f"{word}/{k}.jpg")
            expected.append(Plan(class_id, f"{word}/{query}", supports))
    assert data.plans("test") == expected and [plan.query for plan in expected][:3] == [f"abe's_fish/{k}.jpg" for k in (1, 10, 2)]
    assert data.classes == ["ant", "bee", "cow", "abe's fish", "dog"]


def lvis_tree(root):
    """Category c is on pictures 1 .. c of val, as a box and a second one; on all twelve of train."""
    boxes = lambda c: [(c, [1, 1, 5, 1, 5, 5, 1, 5]), (c, [8, 6, 12, 6, 12, 10, 8, 10])]
    lvis_json(root, "val", 24, lambda n: [box for c in range(n, 25) for box in boxes(c)])
    lvis_json(root, "train", 12, lambda n: [box for c in range(1, 25) if c != 5 or n < 3 for box in boxes(c)])
    return root


def test_lvis_classes_are_every_tenth_of_those_with_more_pictures_than_shots_by_category_id(tmp_path):
    data = Lvis92i(root=str(lvis_tree(tmp_path)), fold=2, shots=3, seed=4, episodes=11, train_shots=(1, 4), **SIZE)
    kept = list(range(3, 24))                                                 # categories 4 .. 24, as ids from 0
    assert data.class_ids("test") == [kept[2], kept[12]] and data.classes[kept[2]] == "thing 6"
    rng, expected = np.random.RandomState(4), []
    for i in range(11):
        class_id = [kept[2], kept[12]][i % 2]
        names = [str(n) for n in range(1, class_id + 2)]
        query = choose(rng, names)
        expected.append(Plan(class_id, query, supports_by_choice(rng, names, query, 3)))
    assert data.plans("test") == expected
    assert data.class_ids("train") == [c for c in range(24) if c not in (kept[2], kept[12], 4)]     # thing 5: two pictures
    truth = data.source("test").read(0)["query_truth"]
    assert truth[2, 2] == truth[8, 10] == 1 and truth[5, 7] == 0                                    # both boxes
    assert (data.training()[0, 0]["query_mask"] == 1).any()


def test_the_runs_seed_changes_training_and_data_seed_the_evaluation():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for name in ("coco20i", "pascal5i", "fss1000", "lvis92i", "demo_episodes", "episodes_folder"):
            more = [] if name == "demo_episodes" else ["data.root=x"]
            plain = compose("train", [f"data={name}", "seed=7", *more])
            other = compose("train", [f"data={name}", "seed=7", "data.seed=3", *more])
            plain, other = (OmegaConf.to_container(cfg, resolve=True)["data"] for cfg in (plain, other))
            assert (plain["seed"], plain["training_seed"]) == (0, 7) and (other["seed"], other["training_seed"]) == (3, 7)
    one, two = DemoEpisodes(training_seed=7, seed=0), DemoEpisodes(training_seed=8, seed=0)
    assert one.plans("test") == two.plans("test") != DemoEpisodes(training_seed=7, seed=3).plans("test")
    names = [[data.training()[visit, 0]["name"] for visit in range(4)] for data in (one, two)]
    assert names[0] != names[1]


def test_validation_may_take_some_of_the_episodes_of_the_test(tmp_path):
    lists = voc_lists(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    data = Pascal5i(root=str(tmp_path), lists=str(lists), episodes=100, val_episodes=4)
    every = data.source("test").plans
    part = data.source("val").plans
    assert len(every) == 100 and len(part) == 4 and part != every[:4]
    left = iter(every)
    assert all(plan in left for plan in part)                                 # some of them, in their order
    assert Pascal5i(root=str(tmp_path), lists=str(lists), episodes=100).plans("val") == every


# -- what is read
@pytest.fixture
def voc(tmp_path):
    """Pictures of fold 0: trees wherever the lists name a picture; the outline of each object is 255."""
    lists = voc_lists(tmp_path / "hsnet", per_class=3)
    for side in ("trn", "val"):
        for c in range(1, 21):
            for k in range(3):
                labels = square(c)
                labels[2:9, 3:5] = 255
                labels[0] = 20 if c != 20 else 1
                put(tmp_path / "VOC2012" / "JPEGImages" / f"{side}{c}_{k}.jpg", photo(c + k))
                folder = "SegmentationClassAug" if side == "trn" or k else "SegmentationClass"
                put(tmp_path / "VOC2012" / folder / f"{side}{c}_{k}.png", labels)
    return {"root": str(tmp_path), "lists": str(lists.parent), **SIZE}


def test_pascals_255_is_ignored_in_queries_and_background_in_supports(voc):
    episode = Pascal5i(shots=2, **voc).source("test").read(0)
    truth = episode["query_truth"]
    assert truth.shape == (12, 16) == episode["size"] and truth[5, 3] == 255 and truth[5, 5] == 1 and truth[0, 0] == 0
    assert set(episode["query_mask"].unique().tolist()) == {0, 1, 255}
    assert set(episode["support_masks"].unique().tolist()) == {0, 1}
    assert episode["word"] == Pascal5i(**voc).classes[episode["class_id"]]


def test_an_episode_is_squared_and_stacks_in_batches(voc):
    data = Pascal5i(shots=2, val_batch_size=3, **voc)
    batch = next(iter(data.test_dataloader()))
    assert batch["query"].shape == (3, 3, 8, 8) and batch["supports"].shape == (3, 2, 3, 8, 8)
    assert batch["query_mask"].shape == (3, 8, 8) and batch["support_masks"].shape == (3, 2, 8, 8)
    assert batch["query"].dtype == batch["support_masks"].dtype == torch.uint8 and batch["class_id"].shape == (3,)
    assert batch["support_names"] == [plan.supports for plan in data.plans("test")[:3]]


def test_training_sees_the_other_folds_classes_and_pictures_only(voc):
    data = Pascal5i(fold=1, **voc)
    drawn = [data.training()[visit, 0] for visit in range(60)]
    assert {e["class_id"] for e in drawn} <= set(data.class_ids("train")) == set(range(20)) - set(range(5, 10))
    assert len({e["class_id"] for e in drawn}) > 10 and all(e["name"].startswith("trn") for e in drawn)
    assert data.class_ids("test") == list(range(5, 10)) == data.class_ids("val")


def test_masks_are_taken_at_the_places_interpolate_takes(tmp_path):
    class One(ObjectPictures):
        def picture(self, name):
            return torch.full((3, 11, 7), 9, dtype=torch.uint8)

        def mask(self, name, class_id):
            return (torch.arange(77).view(11, 7) % 3 == 0).to(torch.uint8)

    shown = view(One(), "a", 0, 5)
    whole = One().mask("a", 0)
    assert torch.equal(shown.mask, whole[[i * 11 // 5 for i in range(5)]][:, [i * 7 // 5 for i in range(5)]])
    assert torch.equal(shown.truth, whole) and shown.picture.unique().tolist() == [9]
    mirrored = view(One(), "a", 0, 5, mirrored=True)
    assert torch.equal(mirrored.truth, whole.flip(-1)) and not torch.equal(mirrored.mask, shown.mask)


@pytest.mark.parametrize("masks", ["HSNet's PNGs", "outlines"])
def test_coco_masks_are_hsnets_pngs_or_drawn(tmp_path, masks):
    lists, root = coco_lists(tmp_path / "lists"), tmp_path / "data" / "COCO2014"
    (root / "val2014").mkdir(parents=True)
    data = Coco20i(root=str(tmp_path / "data"), lists=str(lists), fold=0, episodes=1, **SIZE)
    plan = data.plans("test")[0]
    ids = {name: k for k, name in enumerate([plan.query, *plan.supports], 1)}
    categories = [{"id": number, "name": name} for number, name in THINGS.items()]
    document = {"images": [], "annotations": [], "categories": categories}
    for name, number in ids.items():
        put(root / name, photo(number))
        document["images"].append({"id": number, "file_name": Path(name).name, "height": 12, "width": 16})
        thing = list(THINGS)[plan.class_id]
        outline = [[3, 2, 11, 2, 11, 9, 3, 9]]
        document["annotations"].append({"id": number, "image_id": number, "category_id": thing, "segmentation": outline,
                                        "area": 56, "iscrowd": 0, "bbox": [3, 2, 8, 7]})
        if masks != "outlines":
            put(root / "annotations" / "val2014" / f"{Path(name).stem}.png", square(plan.class_id + 1))
    if masks == "outlines":
        (root / "annotations").mkdir()
        (root / "annotations" / "instances_val2014.json").write_text(json.dumps(document))
    episode = data.source("test").read(0)
    assert torch.equal(episode["query_truth"], torch.from_numpy(square(1))) and episode["name"] == plan.query


@pytest.mark.parametrize("white, mode", [(255, "L"), (1, "L"), (255, "RGB"), (1, "RGB")])
def test_fss_masks_are_black_and_white_grey_or_rgb(tmp_path, white, mode):
    fill = lambda value: square(value) if mode == "L" else np.stack([square(value)] * 3, -1)
    class_folders(tmp_path, ("dog", "abe's_fish", "ant", "bee"), count=3, white=white, fill=fill)
    data = FSS1000(root=str(tmp_path), lists=str(fss_lists(tmp_path / "l")), **SIZE)
    assert torch.equal(data.source("test").read(0)["query_truth"], torch.from_numpy(square(1)))
    assert data.class_ids("train") == [0, 1]
    soft = fill(white).astype(np.uint8)
    soft[2, 3] = 60
    put(tmp_path / "abe's_fish" / "1.png", soft)
    if white == 1:
        with pytest.raises(UserError, match="abe's_fish/1.png: a mask of 3 values up to 60"):
            data.source("test").read(0)
    else:
        assert data.source("test").read(0)["query_truth"].sum() == square(1).sum() - 1       # 128 is the threshold


# -- training
def pool(names=6, empty=(), size=8):
    class Numbered(ObjectPictures):
        """Picture k is of colour k; pictures `empty` show nothing of the class."""

        def picture(self, name):
            return torch.full((3, 12, 16), int(name), dtype=torch.uint8)

        def mask(self, name, class_id):
            return torch.from_numpy(square(int(int(name) not in empty)))

    lists = {0: [str(k) for k in range(names)], 3: [str(100 + k) for k in range(names)]}
    return Pool(Numbered(), lists, ["a", "b", "c", "d"], size, 0.0, 0.0)


def test_a_training_episode_is_a_function_of_seed_and_visit_and_never_repeats_a_picture():
    one, again, other = (Drawn(pool(), seed, (3, 3), 4) for seed in (1, 1, 2))
    episodes = [one[visit, visit % 5] for visit in range(40)]
    for visit, episode in enumerate(episodes):
        names = [episode["name"], *episode["support_names"]]
        assert len(set(names)) == 4 and again[visit, 0]["support_names"] == names[1:]
        assert episode["supports"][:, 0, 0, 0].tolist() == [int(name) for name in names[1:]]
    assert {e["class_id"] for e in episodes} == {0, 3} and {e["word"] for e in episodes} == {"a", "d"}
    assert [e["name"] for e in episodes] != [other[visit, 0]["name"] for visit in range(40)]


def test_shots_are_equal_within_a_batch_of_all_processes_and_differ_between_batches():
    dataset = Drawn(pool(), 0, (1, 4), 6)
    shots = [len(dataset[visit, 0]["support_names"]) for visit in range(240)]
    batches = [shots[i:i + 6] for i in range(0, 240, 6)]
    assert all(len(set(batch)) == 1 for batch in batches) and {batch[0] for batch in batches} == {1, 2, 3, 4}


def test_fewer_shots_are_the_first_of_more():
    few, many = Drawn(pool(), 5, (1, 1), 4)[9, 0], Drawn(pool(), 5, (4, 4), 4)[9, 0]
    assert few["name"] == many["name"] and few["support_names"] == many["support_names"][:1]


def loader_names(data, start, rank=0, world=1, steps=5):
    done = types.SimpleNamespace(total=types.SimpleNamespace(processed=start))
    data.trainer = types.SimpleNamespace(
        max_steps=steps, accumulate_grad_batches=1, global_rank=rank, world_size=world,
        fit_loop=types.SimpleNamespace(epoch_loop=types.SimpleNamespace(batch_progress=done)),
        strategy=types.SimpleNamespace(root_device=torch.device("cpu")))
    return [(batch["name"], batch["support_names"]) for batch in data.train_dataloader()]


def test_training_goes_on_where_it_stopped_and_two_processes_see_the_episodes_of_one():
    make = lambda batch: DemoEpisodes(batch_size=batch, train_shots=(1, 3), size=16, training_seed=2, pictures_per_class=4)
    whole, tail = loader_names(make(4), 0), loader_names(make(4), 3)
    assert len(whole) == 5 and whole[3:] == tail
    ranks = [loader_names(make(2), 0, rank, 2) for rank in range(2)]
    for (names, supports), *halves in zip(whole, *ranks):
        assert [names[0::2], names[1::2]] == [half[0] for half in halves]
        assert [supports[0::2], supports[1::2]] == [half[1] for half in halves]


def test_pictures_that_lose_their_object_are_passed_over_in_training_and_kept_in_evaluation(tmp_path, capsys):
    dataset = Drawn(pool(empty=(0, 1, 2, 100, 101, 102)), 0, (2, 2), 1)
    for visit in range(20):
        episode = dataset[visit, 0]
        assert {episode["name"], *episode["support_names"]} <= {"3", "4", "5", "103", "104", "105"}
    with pytest.raises(UserError, match="class [ad]: at 8x8 only 2 of 6 pictures show it, 2 shots need 3; raise data.size"):
        Drawn(pool(empty=(0, 1, 2, 3, 100, 101, 102, 103)), 0, (2, 2), 1)[0, 0]
    tiny = lambda value: square(value, rows=slice(2, 3)) * (np.arange(16) == 5).astype(np.uint8)
    class_folders(tmp_path, ("dot",), count=2, fill=tiny)
    data = FolderEpisodes(root=str(tmp_path), **SIZE)
    episode = data.source("test").read(0)
    assert episode["query_mask"].sum() == 0 and episode["query_truth"].sum() == 1
    data.source("test").read(1)
    assert capsys.readouterr().out.count("dot/1.jpg: no pixel of dot is left at 8x8; such masks are kept") == 1


def test_colour_and_flip_change_pictures_only_when_asked(tmp_path):
    root = str(class_folders(tmp_path, ("cat", "dog"), count=4))
    plain = FolderEpisodes(root=root, train_share=0.5, **SIZE).training()[0, 0]
    flipped = FolderEpisodes(root=root, train_share=0.5, flip=1.0, **SIZE).training()[0, 0]
    painted = FolderEpisodes(root=root, train_share=0.5, colour=1.0, **SIZE).training()[0, 0]
    assert torch.equal(flipped["query_truth"], plain["query_truth"].flip(-1)) and flipped["name"] == plain["name"]
    assert not torch.equal(painted["query"], plain["query"]) and torch.equal(painted["query_mask"], plain["query_mask"])


# -- the demo world
@pytest.mark.parametrize("fold", range(4))
def test_demo_classes_of_training_validation_and_test_share_none(fold):
    data = DemoEpisodes(fold=fold)
    train, val, test = ({OBJECT_WORDS[c] for c in data.class_ids(split)} for split in ("train", "val", "test"))
    assert not train & val and not train & test and not val & test and test == set(FOLDS[fold])
    assert not (train | val) & {*NOVEL, *RARE} and len(train) >= 20 and len(val) >= 4


def test_demo_pictures_show_their_class_and_nothing_that_is_held_out():
    data = DemoEpisodes(fold=1, size=32)
    held_out = {OBJECT_WORDS.index(word) + 1 for word in {*FOLDS[1], *NOVEL, *RARE, *data.words("val")}}
    pictures, names = data.pictures("train"), data.names_by_class("train")
    for class_id in list(names)[:8]:
        for name in names[class_id][:4]:
            assert (pictures.mask(name, class_id) == 1).float().mean() >= 0.01
            assert not held_out & set(pictures.scene(name)[1].unique().tolist())
    shown = set()
    for plan in data.plans("test")[:12]:
        shown |= set(data.pictures("test").scene(plan.query)[1].unique().tolist())
    assert shown & {c + 1 for c in data.class_ids("test")} and shown & {c + 1 for c in data.class_ids("train")}


def test_demo_episodes_are_the_same_each_time_and_hold_different_pictures():
    one, again = (DemoEpisodes(shots=3, size=32, episodes=12).source("test").read(5) for _ in range(2))
    assert torch.equal(one["query"], again["query"]) and torch.equal(one["support_masks"], again["support_masks"])
    pictures = [one["query"], *one["supports"]]
    assert len({one["name"], *one["support_names"]}) == 4 and not any(torch.equal(pictures[0], p) for p in pictures[1:])
    assert [e.class_id for e in DemoEpisodes(episodes=24).plans("test")[:12]] == DemoEpisodes().class_ids("test")


# -- a folder of one's own
def test_every_picture_of_a_folder_is_a_query_once_with_different_supports(tmp_path):
    class_folders(tmp_path, ("eiffel_tower", "cat"), count=4)
    (tmp_path / "README.md").write_text("not a class")
    data = FolderEpisodes(root=str(tmp_path), shots=3, seed=1, **SIZE)
    plans = data.plans("test")
    assert [p.query for p in plans] == [f"{word}/{k}.jpg" for word in ("cat", "eiffel_tower") for k in range(1, 5)]
    assert all(len({p.query, *p.supports}) == 4 and len({Path(n).parent for n in (p.query, *p.supports)}) == 1 for p in plans)
    assert data.classes == ["cat", "eiffel tower"] and data.source("test").read(0)["word"] == "cat"
    assert data.source("val").plans == plans


def test_a_zip_of_class_folders_reads_as_the_folder_does_also_in_workers(tmp_path):
    class_folders(tmp_path / "set" / "mine", ("cat", "dog"), count=3)
    shutil.make_archive(str(tmp_path / "mine"), "zip", tmp_path / "set")
    here = FolderEpisodes(root=str(tmp_path / "set"), size=8, workers=0)
    packed = FolderEpisodes(root=str(tmp_path / "mine.zip"), size=8, workers=2)
    for one, other in zip(here.test_dataloader(), packed.test_dataloader(), strict=True):
        assert one["name"] == other["name"] and torch.equal(one["supports"], other["supports"]) and one["word"] == other["word"]


def test_a_share_of_a_folders_classes_is_for_training_alike_for_every_seed(tmp_path, capsys):
    class_folders(tmp_path, list("abcdef"), count=2)
    data, other = (FolderEpisodes(root=str(tmp_path), train_share=0.5, seed=seed, **SIZE) for seed in (0, 1))
    train, test = data.class_ids("train"), data.class_ids("test")
    assert sorted(train + test) == list(range(6)) and len(train) == 3 and other.class_ids("test") == test
    assert "3 of 6 classes are for training" in capsys.readouterr().out
    assert {p.class_id for p in data.plans("test")} == set(test)


def test_the_real_folder_gives_85_episodes_whose_objects_are_seen(shared):
    root = shared / "data" / "fewshot"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    data = FolderEpisodes(root=str(root), shots=4, size=64, workers=0)
    source = data.source("test")
    assert len(source) == 85 and len(data.classes) == 13
    for index in range(0, 85, 17):
        episode = source.read(index)
        assert episode["query_truth"].shape == (224, 224) and 0.01 < episode["query_mask"].float().mean() < 0.9
    with pytest.raises(UserError, match="5 shots and a query, but eiffel tower has 5 pictures"):
        FolderEpisodes(root=str(root), shots=5).source("test")


# -- mistakes
def coco(tmp_path, **settings):
    return Coco20i(root=str(tmp_path), lists=str(coco_lists(tmp_path / "lists")), **settings)


@pytest.mark.parametrize("make, said", [
    (lambda p: coco(p, fold=4), "data.fold: no fold 4; give 0 to 3"),
    (lambda p: DemoEpisodes(fold=-1), "data.fold: no fold -1"),
    (lambda p: coco(p, shots=0), "data.shots: 0 shots; give 1 or more"),
    (lambda p: DemoEpisodes(train_shots=(2, 1)), r"data.train_shots: \[2, 1\] shots"),
    (lambda p: DemoEpisodes(train_shots=(0, 1)), "data.train_shots"),
    (lambda p: DemoEpisodes(size=0), "data.size: 0 pixels"),
    (lambda p: DemoEpisodes(episodes=0), "data.episodes: 0 episodes"),
    (lambda p: DemoEpisodes(shots=40).source("test"), "40 shots and a query, but castle has 40 pictures; set data.shots to 39"),
    (lambda p: DemoEpisodes(train_shots=(1, 50)).source("train"), "50 shots and a query.*set data.train_shots to 39"),
    (lambda p: DemoEpisodes(seed=-1), "data.seed: -1 is no seed"),
    (lambda p: DemoEpisodes(training_seed=2**32), "data.training_seed: 4294967296 is no seed"),
    (lambda p: FolderEpisodes(root=str(class_folders(p, "a", 1))).plans("test"), "query, but a has 1 pictures; add"),
    (lambda p: DemoEpisodes(pictures_per_class=1), "data.pictures_per_class"),
    (lambda p: coco(p).source("test"), "no val2014; set data.root to COCO 2014"),
    (lambda p: Coco20i(root=str(p), lists=str(p)).plans("test"),
     "no coco/val/fold0.pkl; put it there .github.com/juhongm999/hsnet, data/splits/coco/val/fold0.pkl.* to download it"),
    (lambda p: Coco20i(root=str(p)).plans("train"), "no coco/trn/fold0.pkl; give HSNet.s lists as data.lists=<folder>"),
    (lambda p: Pascal5i(root=str(p), lists=str(voc_lists(p / "l"))).source("test"), "no JPEGImages; set data.root to VOC 2012"),
    (lambda p: FSS1000(root=str(p), lists=str(fss_lists(p / "l"))).source("test"), "2 of 2 classes of test have no pictures"),
    (lambda p: FolderEpisodes(root=str(p)), "no class folders with pictures; put <class>/<n>.jpg"),
    (lambda p: FolderEpisodes(root=str(p / "none")), "none: no such folder or .zip; set data.root"),
    (lambda p: FolderEpisodes(root=str(class_folders(p, "ab", 2))).source("train"), "all classes are for evaluation"),
    (lambda p: FolderEpisodes(root=str(class_folders(p, "ab", 2)), train_share=0.9), "none of them left for evaluation"),
    (lambda p: Lvis92i(root=str(p)), "no lvis_v1_val.json"),
    (lambda p: Lvis92i(root=str(lvis_tree(p)), shots=20).plans("test"), "only 4 classes have more than 20 pictures"),
])  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_where_and_how(tmp_path, monkeypatch, make, said):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=said) as caught:
        make(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_picture_or_mask_is_named(voc):
    data = Pascal5i(**voc)
    plan = data.plans("test")[0]
    for folder in ("SegmentationClassAug", "SegmentationClass"):
        (Path(voc["root"]) / "VOC2012" / folder / f"{plan.query}.png").unlink(missing_ok=True)
    with pytest.raises(UserError, match=f"SegmentationClassAug/{plan.query}.png: no mask; unpack SegmentationClassAug.zip"):
        data.source("test").read(0)
    (Path(voc["root"]) / "VOC2012" / "JPEGImages" / f"{plan.supports[0]}.jpg").unlink()
    with pytest.raises(UserError, match=f"JPEGImages/{plan.supports[0]}.jpg: missing"):
        data.pictures("test").picture(plan.supports[0])


@pytest.mark.parametrize("spoil, said", [
    (lambda p: (p / "cat" / "2.png").unlink(), "cat/2.jpg: a picture without a mask; add .*cat/2.png"),
    (lambda p: put(p / "cat" / "2.png", np.arange(192, dtype=np.uint8).reshape(12, 16)), "2.png: a mask of 192 values .0, 1, 2,"),
    (lambda p: put(p / "cat" / "2.png", square(255, size=(16, 12))), "2.jpg: a mask of 12x16 for a picture of 16x12"),
    (lambda p: put(p / "cat" / "2.png", square(0)), "cat/2.png: an empty mask"),
    (lambda p: (p / "cat" / "2.png").write_bytes(b"not a picture"), "cat/2.png: not a whole picture"),
])
def test_a_folders_bad_mask_is_named(tmp_path, spoil, said):
    class_folders(tmp_path, ("cat",), count=3)
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        source = FolderEpisodes(root=str(tmp_path), **SIZE).source("test")
        [source.read(index) for index in range(3)]


@pytest.mark.parametrize("file, content, said", [
    ("pascal/val/fold0.txt", b"2007_000033\n", "a line '2007_000033', not like 2007_000033__01"),
    ("pascal/val/fold0.txt", b"", "the list is empty"),
    ("pascal/val/fold0.txt", b"2007_000033__09\n", "on the other side of the fold"),
    ("coco/val/fold0.pkl", b"nonsense", "not a pickle of plain values"),
    ("coco/val/fold0.pkl", pickle.dumps([1, 2]), "not a dict of lists of names by class"),
    ("coco/val/fold0.pkl", pickle.dumps({0: []}), "no classes"),
    ("coco/val/fold0.pkl", pickle.dumps({80: ["a"]}), "class 80, but 80 classes"),
    ("coco/val/fold0.pkl", pickle.dumps({1: ["a", "b"]}), "on the other side of the fold"),
    ("coco/val/fold0.pkl", pickle.dumps(Path("a")), "it holds a pathlib"),
])
def test_a_list_that_is_none_is_refused(tmp_path, file, content, said):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes(content)
    kind = Pascal5i if "pascal" in file else Coco20i
    with pytest.raises(UserError, match=said):
        kind(root=str(tmp_path), lists=str(tmp_path)).plans("test")


def test_a_list_that_is_not_at_hand_is_downloaded_once_and_verified(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    fetched = coco_lists(tmp_path) / "coco/val/fold2.pkl"
    monkeypatch.setattr("datamodules.episodes.download", lambda *facts: asked.append(facts) or fetched)
    assert len(Coco20i(root=str(tmp_path), fold=2).plans("test")) == 1000
    url, path, sha256, size = asked[0]
    assert url.startswith("https://raw.githubusercontent.com/juhongm999/hsnet/")
    assert url.endswith("/data/splits/coco/val/fold2.pkl")
    assert path == tmp_path / "cache/lists/hsnet/coco/val/fold2.pkl" and (sha256[:4], size) == ("0f27", 624406)


def test_all_19_lists_have_the_checksums_of_the_fixture(shared):
    fixture = shared / "parity" / "diffews_episodes.json"
    if not fixture.is_file():
        pytest.skip(f"no {fixture}")
    assert yaml.safe_load(HSNET.read_text())["files"] == json.loads(fixture.read_text())["list_files"]


def test_lists_are_found_in_the_trees_splits_and_in_a_folder_that_holds_hsnets(tmp_path):
    coco_lists(tmp_path / "hsnet")
    root = tmp_path / "COCO2014"
    (root / "val2014").mkdir(parents=True)
    (root / "splits" / "val").mkdir(parents=True)
    (root / "splits" / "val" / "fold0.pkl").write_bytes((tmp_path / "hsnet/coco/val/fold0.pkl").read_bytes())
    assert Coco20i(root=str(root)).plans("test") == Coco20i(root=str(root), lists=str(tmp_path)).plans("test")
