"""python -m zoo.generate with a MatchMask: the folder, what is gone on with, shared, filtered, read back and refused."""

import json
import shutil

import pytest
import torch
from lightning.pytorch import seed_everything

from datamodules.errors import UserError
from datamodules.files import read_image, read_labels
from datamodules.folder import FolderScenes
from datamodules.samples import read_classes, read_manifest
from tests.contract import CLASSES, SquareData, trainer
from tests.matchmask.trees import built, generated, matchmask, write_run, write_set
from zoo import hub, synthetic
from zoo.matchmask import making

FILES = ("images", "masks", "classes.txt", "manifest.jsonl", "generate.json")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    seed_everything(0, verbose=False)
    model = matchmask()
    with torch.no_grad():                                    # as if it had learnt
        for p in model.net.parameters():
            p += 0.2 * torch.randn_like(p)
    return write_run(tmp_path_factory.mktemp("run"), root, model)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """It has learnt a little, so that it sees more than one class."""
    folder, model = tmp_path_factory.mktemp("segmenter"), built("deeplabv3plus")
    trainer(folder, 15).fit(model, SquareData(batch_size=4))
    return str(hub.export(model, folder, {"seed": 0}))


@pytest.fixture(scope="module")
def painted(run, tmp_path_factory):
    """Three label maps, three pictures of each, in one go."""
    out = tmp_path_factory.mktemp("painted") / "pairs"
    generated(run, out, "k=3")
    return out


def contents(folder):
    """Names, labels as they are, pictures (which may differ by one level between batches of other sizes)."""
    masks = {path.name: path.read_bytes() for path in sorted((folder / "masks").iterdir())}
    return masks, {path.name: read_image(path) for path in sorted((folder / "images").iterdir())}


def manifest(folder):
    return read_manifest((folder / "manifest.jsonl").read_text())


def same(one, other):
    (masks, pictures), (others, painted) = contents(one), contents(other)
    near = all((pictures[name].int() - painted[name].int()).abs().max() <= 1 for name in pictures.keys() & painted.keys())
    manifests = [(folder / "manifest.jsonl").read_text() for folder in (one, other)]
    return masks == others and pictures.keys() == painted.keys() and near and manifests[0] == manifests[1]


# -- the folder --------------------------------------------------------------------------------------------------------
def test_the_folder_holds_k_pairs_of_each_label_map_and_says_how_they_were_made(painted, root):
    assert all((painted / name).exists() for name in FILES)
    rows = manifest(painted)
    data = FolderScenes(root=str(root), labelled=3)
    names = data.source("train").names
    assert [row["source"] for row in rows] == [name for name in names for _ in range(3)]
    assert len({row["seed"] for row in rows}) == 9 and all(row["prompt"] and not row["filter"] for row in rows)
    assert read_classes((painted / "classes.txt").read_text())[0] == CLASSES
    about = json.loads((painted / "generate.json").read_text())["settings"]
    assert about["k"] == 3 and about["weights"] == rows[0]["weights"] and about["classes"] == CLASSES
    for row in rows:
        file = f"{row['name']}.png"
        assert read_image(painted / "images" / file).shape == (3, 64, 64)
        assert read_labels(painted / "masks" / file).shape == (64, 64)


def test_it_is_read_back_as_made_pairs_and_as_a_set_of_its_own(painted, root):
    data = FolderScenes(root=str(root), labelled=3, synthetic=str(painted), synthetic_share=1.0, crop=32, workers=0)
    made = {data.training()[visit, 0]["name"] for visit in range(40)}
    assert made == {row["name"] for row in manifest(painted)}
    alone = FolderScenes(root=str(painted))
    assert alone.classes == CLASSES and len(alone.source("train")) + len(alone.source("val")) == 9


@pytest.mark.parametrize("batch", [1, 2])
def test_the_same_seeds_give_the_same_pictures_at_any_batch_size(painted, run, tmp_path, batch):
    generated(run, tmp_path / "other", "k=3", f"batch={batch}")
    assert same(painted, tmp_path / "other")


def test_another_seed_gives_other_pictures_and_needs_another_folder(painted, run, tmp_path):
    generated(run, tmp_path / "other", "k=1", "seed=1", "format=jpeg")
    assert {path.suffix for path in (tmp_path / "other" / "images").iterdir()} == {".jpg"}
    first, second = ({row["seed"] for row in manifest(folder)} for folder in (painted, tmp_path / "other"))
    assert not first & second
    with pytest.raises(UserError, match="made with another k, seed; give another out="):
        generated(run, painted, "k=1", "seed=1")


# -- killed, shared ----------------------------------------------------------------------------------------------------
class Killed(Exception):
    pass


def killed_after(monkeypatch, units):
    kept, keep = [], synthetic.Folder.keep

    def some(self, unit, pairs, palette):
        if len(kept) == units:
            raise Killed
        kept.append(unit)
        keep(self, unit, pairs, palette)

    monkeypatch.setattr(synthetic.Folder, "keep", some)


def test_a_second_start_goes_on_where_a_kill_stopped_the_first(painted, run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "pairs"
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            generated(run, out, "k=3", "batch=1")
    assert len(list((out / "images").iterdir())) == 6 and not (out / "manifest.jsonl").exists()
    with pytest.raises(UserError, match="no classes.txt"):
        FolderScenes(root=str(out))
    times = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    generated(run, out, "k=3")
    assert "1 of 3 are to be made here" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()) and same(painted, out)
    generated(run, out, "k=3")
    assert "to be made" not in capsys.readouterr().out


def test_a_torn_or_lost_file_is_made_again(painted, run, tmp_path, capsys):
    out = tmp_path / "pairs"
    shutil.copytree(painted, out)
    pictures = sorted((out / "images").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:50])
    pictures[-1].unlink()
    generated(run, out, "k=3")
    assert "2 of 3 are to be made here" in capsys.readouterr().out and same(painted, out)


def test_two_processes_share_the_work_and_the_last_one_finishes(painted, run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "pairs"
    for rank, said in (("0", "not there yet"), ("1", "9 pairs of 3")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        generated(run, out, "k=3")
        text = capsys.readouterr().out
        assert said in text and f"{2 - int(rank)} of {2 - int(rank)} are to be made here, of 3 in all" in text
    assert same(painted, out)


# -- filters -----------------------------------------------------------------------------------------------------------
FILTERS = {"relative": [], "confidence": ["filter.tau=0.34"], "class_loss": ["filter.margin=1.0"]}


@pytest.mark.parametrize("name", FILTERS)
def test_what_a_filter_leaves_is_the_label_maps_and_its_figures_are_counted(name, painted, run, segmenter, tmp_path):
    asked = [f"filter={name}", f"filter.weights={segmenter}", *FILTERS[name], "k=3"]
    results = generated(run, tmp_path / "at_once", *asked)
    generated(run, tmp_path / "later", *asked, f"painted={painted}")
    (masks, pictures), (later, again) = contents(tmp_path / "at_once"), contents(tmp_path / "later")
    assert masks == later and all(torch.equal(pictures[file], again[file]) for file in pictures)
    dropped = total = 0
    for file in masks:
        labels, kept = read_labels(painted / "masks" / file), read_labels(tmp_path / "at_once" / "masks" / file)
        assert ((kept == labels) | (kept == 255)).all()
        total, dropped = total + (labels != 255).sum(), dropped + ((labels != 255) & (kept == 255)).sum()
    assert results["filter"]["kept"] == pytest.approx(1 - float(dropped / total)) and 0 < dropped < total
    rows = manifest(tmp_path / "at_once")
    assert sum(row["filter"]["dropped"] for row in rows) == dropped
    assert json.loads((tmp_path / "at_once" / "figures.json").read_text())["results"]["filter"] == results["filter"]


def test_pictures_painted_before_keep_the_name_of_who_painted_them(painted, root, segmenter, tmp_path):
    other = write_run(tmp_path / "other", root, matchmask(steps=3, net={"rank": 3}))
    generated(other, tmp_path / "out", "k=1", "seed=5", "filter=relative", f"filter.weights={segmenter}", f"painted={painted}")
    about, before = (json.loads((folder / "generate.json").read_text())["settings"] for folder in (tmp_path / "out", painted))
    assert {row["weights"] for row in manifest(tmp_path / "out")} == {before["weights"]} != {hub.sha256(other)}
    assert (about["weights"], about["seed"]) == (before["weights"], before["seed"])


def test_beside_a_judge_a_filter_has_precision_and_recall(run, root, segmenter, painted, tmp_path):
    judge = {"_target_": "zoo.matchmask.judge.Judge", "weights": segmenter, "maps": 1}
    judged = write_run(tmp_path / "run", root, matchmask(judge=judge))
    results = generated(judged, tmp_path / "out", "k=3", "filter=relative", "filter.keep=agree", f"filter.weights={segmenter}")
    assert set(results) == {"filter", "as many pixels, the least confident"}
    assert results["filter"]["precision"] == results["filter"]["recall"] == 1       # it asks the judge itself
    assert results["filter"]["misaligned"] == pytest.approx(1 - results["filter"]["kept"])


def test_few_pictures_are_no_majority_and_this_is_said(run, segmenter, painted, tmp_path, capsys):
    results = generated(run, tmp_path / "one", "k=1", "filter=relative", f"filter.weights={segmenter}", f"painted={painted}")
    assert results["filter"]["kept"] == 1 and "give k=3 or more" in capsys.readouterr().out


# -- other label maps, other pictures ----------------------------------------------------------------------------------
def test_mirrored_label_maps_are_painted_too(run, tmp_path):
    generated(run, tmp_path / "out", "k=1", "flip=true")
    masks = {path.stem: read_labels(path) for path in (tmp_path / "out" / "masks").iterdir()}
    straight = [name for name in masks if "_mirrored_" not in name]
    assert len(masks) == 6 and len(straight) == 3
    assert all(torch.equal(masks[name], masks[name.replace("_0", "_mirrored_0")].flip(-1)) for name in straight)


def test_pasting_moves_things_between_the_labelled_scenes_without_painting(run, root, tmp_path):
    generated(run, tmp_path / "out", "k=2", "by=paste", "+model.words.ground=null")
    scenes = {one["name"]: one for one in map(FolderScenes(root=str(root), labelled=3).source("train").read, range(3))}
    rows = manifest(tmp_path / "out")
    changed = 0
    for row in rows:
        scene, file = scenes[row["source"]], f"{row['name']}.png"
        labels, image = read_labels(tmp_path / "out" / "masks" / file), read_image(tmp_path / "out" / "images" / file)
        moved = labels != scene["labels"]
        changed += int(moved.sum())
        ground = ~moved & (labels == 0)                      # has no word: it stays, and is not pasted
        assert torch.equal(image[:, ground], scene["image"][:, ground]) and not (moved & (labels == 0)).any()
    assert changed > 0 and len(rows) == 6


def test_unlabelled_pictures_are_painted_to_what_a_segmenter_sees_and_may_join(run, segmenter, tmp_path, root):
    asked = ["k=2", "unlabelled=true", f"pseudo.weights={segmenter}", "pseudo.least=0.05"]
    generated(run, tmp_path / "out", *asked, "pseudo.join=true")
    rows = manifest(tmp_path / "out")
    labelled = FolderScenes(root=str(root), labelled=3).source("train").names
    assert len(rows) == 3 * 2 + 2 * 3 and [row["prompt"] == "" for row in rows].count(True) >= 2
    joined = [row for row in rows if row["source"] not in labelled and row["name"].endswith("_2")]
    assert len(joined) == 2
    for row in joined:
        photo = read_image(root / "images" / "train" / f"{row['source']}.png")
        assert torch.equal(read_image(tmp_path / "out" / "images" / f"{row['name']}.png"), photo)
    generated(run, tmp_path / "folder", *asked, f"pseudo.pictures={root / 'images' / 'val'}")
    assert len(manifest(tmp_path / "folder")) == (3 + 5) * 2


def test_classes_without_share_are_ignored_in_pseudo_labels(segmenter):
    class Half:
        names = ["a"]

        class inference:  # noqa: N801
            @staticmethod
            def labels(model, image):
                labels = torch.zeros(10, 10, dtype=torch.uint8)
                labels[0, :4], labels[1, :6] = 1, 2
                return labels

        device = torch.device("cpu")

        def read(self, index):
            return {"image": torch.zeros(3, 10, 10, dtype=torch.uint8)}

    labels = making.PseudoLabelled(Half(), Half(), 0.05, 255).read(0)["labels"]
    assert (labels == 255).sum() == 4 and (labels == 2).sum() == 6


def test_names_that_repeat_get_their_place():
    assert making.unlike(["a", "b", "a"]) == ["a@0", "b", "a@2"]


# -- refused -----------------------------------------------------------------------------------------------------------
REFUSED = {
    "no picture": (["k=0"], "k: 0 pictures"),
    "a filter without a segmenter": (["filter=relative"], "give filter.weights=<segmenter>"),
    "a generator as a segmenter": (["filter=relative", "filter.weights={run}"], "does not label pictures by itself"),
    "unlabelled pictures without a segmenter": (["unlabelled=true"], "give pseudo.weights=<segmenter>"),
    "an unknown way": (["by=magic"], "give paint or paste"),
    "another set's folder": (["painted={root}"], "no finished folder of painted pairs"),
    "a painted folder that is not there": (["painted=nowhere"], "painted=nowhere: no such folder"),
    "unlabelled pictures that are not there":
        (["unlabelled=true", "pseudo.weights={segmenter}", "pseudo.pictures=nowhere"], "pseudo.pictures=nowhere: no such folder"),
    "a segmenter of no unlabelled pictures": (["pseudo.weights={segmenter}"], "pseudo.weights: .* give unlabelled"),
    "a segmenter that no filter asks": (["filter.weights={segmenter}"], "filter.weights=.*nobody is asked"),
    "another generator's settings": (["share=0.2"], "share: MatchMask paints into label maps"),
    "another generator's aligning": (["fss=ssp"], "fss: MatchMask paints into label maps"),
    "no rule of a filter": (["filter=relative", "filter.keep=some", "filter.weights={segmenter}"], "filter.keep: no such rule"),
    "no probability": (["filter=confidence", "filter.tau=-3", "filter.weights={segmenter}"], "filter.tau: -3 is no probability"),
    "no margin": (["filter=class_loss", "filter.margin=0", "filter.weights={segmenter}"], "filter.margin: "),
    "a setting of another type": (["+model.guidance=abc"], "model.guidance: 'abc' is not a number"),
    "too many pictures of a painted folder": (["k=4", "painted={painted}"], "3 pictures of a label map"),
    "a set's own folder as out": (["out={root}"], "other files are here"),
    "other label maps": (["k=3", "painted={painted}", "+data.labelled=4"], "no pictures painted into"),
    "a setting that does not exist": (["+model.stepss=3"], "stepss"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_made_is_refused_in_one_line(which, run, root, painted, segmenter, tmp_path):
    asked, said = REFUSED[which]
    filled = [one.format(run=run, root=root, painted=painted, segmenter=segmenter) for one in asked]
    with pytest.raises(UserError, match=said):
        generated(run, tmp_path / "out", *[one for one in filled if not one.startswith("out=")],
                  *(one for one in filled if one.startswith("out=")))


def test_a_filters_segmenter_of_other_classes_and_made_pairs_of_other_classes_are_refused(run, root, painted, tmp_path):
    other = str(hub.export(built("deeplabv3plus", ["ground", "thing"]), tmp_path / "other", {"seed": 0}))
    with pytest.raises(UserError, match="filter.weights=.*it knows 2 classes"):
        generated(run, tmp_path / "out", "filter=relative", f"filter.weights={other}")
    two = write_set(tmp_path / "two")
    (two / "classes.txt").write_text("ground\nthing\nwater\n")
    with pytest.raises(UserError, match="made for other classes \\(sky for water\\)"):
        FolderScenes(root=str(two), synthetic=str(painted)).training()
    with pytest.raises(UserError, match="made for other classes"):
        generated(run, tmp_path / "out2", f"painted={painted}", "k=3", "data=folder", f"data.root={two}", "data.labelled=3")
    (tmp_path / "bare").mkdir()
    shutil.copytree(painted / "images", tmp_path / "bare" / "images")
    with pytest.raises(UserError, match="no classes.txt; write the folder with zoo.generate"):
        FolderScenes(root=str(root), synthetic=str(tmp_path / "bare")).training()
