"""Mask-Adapter in training and in use: masks of any source, named with any classes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from datamodules.errors import UserError
from datamodules.samples import default_palette, ignore_of
from zoo.base import Segmentation, Segmenter, as_image
from zoo.inference import Inference
from zoo.mask_adapter.asking import Asker, Judging
from zoo.mask_adapter.bound import closing_lines
from zoo.mask_adapter.clip import pad
from zoo.mask_adapter.generator import load_generator
from zoo.mask_adapter.inference import Instances, instances, paint, panoptic, semantic, semantic_rows
from zoo.mask_adapter.loss import classification, consistency
from zoo.mask_adapter.maft import load_transfer
from zoo.mask_adapter.mixing import Mixed, Mixing
from zoo.mask_adapter.net import Features, MaskAdapterNet
from zoo.mask_adapter.parts import sha256_of_tensors
from zoo.mask_adapter.pictures import activations
from zoo.mask_adapter.proposals import drawn, given_masks, one_by_one, rough, segments_of
from zoo.mask_adapter.text import Text, encode, notes, read_classes, seen_classes
from zoo.metrics import OpenVocabulary
from zoo.optim import Optimisation
from zoo.visualize import colourise, to_picture

say = rank_zero_only(print)


class MaskAdapter(Segmenter):
    """net: CLIP and adapter; generator, transfer: files of zoo.mask_adapter.convert; the rest as in `Segmenter`.

    mixing: the masks that train, and the losses. judging: how pictures are asked. unseen: classes that the training leaves out
    and that are judged all the same. seen_list: a file of the classes that the figures call seen; by default those that share a
    name with a class of the training. things: classes whose segments are told apart, which gives PQ where a generator makes the
    masks. A class may have several names, parted by commas; a run takes those of its data.
    """

    samples = "segments"

    def __init__(
        self,
        net: MaskAdapterNet,
        classes: list[str],
        palette: list[tuple[int, int, int]] | None = None,
        ignore: int = 255,
        optimisation: Optimisation | None = None,
        inference: Inference | None = None,
        mixing: Mixing | None = None,
        judging: Judging | None = None,
        generator: str | None = None,
        transfer: str | None = None,
        unseen: list[str] | None = None,
        seen_list: str | None = None,
        things: list[str] | None = None,
    ):
        super().__init__(classes, palette, ignore, net.clip.mean, net.clip.std, optimisation, inference=inference)
        net.generator = load_generator(generator) if generator else net.generator
        net.transfer = load_transfer(transfer) if transfer else net.transfer
        self.net, self.mixing, self.judging = net, mixing or Mixing(), judging or Judging()
        self.asker = Asker(net, self.judging, self.normalise)
        self.bases_by_name = {"clip": net.clip, "generator": net.generator, "transfer": net.transfer}
        self.frozen = tuple(f"net.{name}" for name, part in self.bases_by_name.items() if part is not None)
        self.unseen, self.things, self.seen_list = list(unseen or []), list(things or []), seen_list
        self._texts: dict[tuple, Text] = {}
        self._learn(read_classes(list(classes)))
        self._check()
        self.freeze()

    def _check(self) -> None:
        if self.net.generator is None and "generator" in (self.judging.masks, self.mixing.predicted and self.mixing.source):
            raise UserError("no mask generator", "model.generator", "give its file, or take masks from elsewhere: "
                            "model.judging.masks=truth|superpixels, model.mixing.source=rough")
        if absent := [name for name in self.unseen if name not in self.classes]:
            mend = "name classes of the data, or set model.unseen=[]"
            raise UserError(f"the data have no class {absent[0]} to be left out of the training", "model.unseen", mend)

    # -- classes -------------------------------------------------------------------------------------------------------
    def _learn(self, names: list[list[str]]) -> None:
        """Names of the classes of the training. Pictures are asked for them, too, until others are named."""
        learnt = torch.tensor([own[0] not in self.unseen for own in names])
        self.offered, self.learnt = names, [own for own, kept in zip(names, learnt) if kept]
        self.register_buffer("learnt_place", torch.where(learnt, learnt.cumsum(0) - 1, -1), persistent=False)
        self._ask(names, self.palette)

    def _ask(self, names: list[list[str]], palette: list[tuple[int, int, int]] | None) -> None:
        """From now on pictures are asked for these classes; a class shows its first name."""
        self.names, self.classes, self.ignore = names, [own[0] for own in names], ignore_of(len(names))
        self.palette = [tuple(c) for c in palette] if palette else default_palette(1 + len(names))[1:]

    @contextmanager
    def asked(self, classes: list[str] | str | None) -> Iterator[None]:
        """Asks for other classes for a while; None: for its own."""
        kept = self.names, self.palette
        if classes is not None:
            self._ask(read_classes(classes), None)
        try:
            yield
        finally:
            self._ask(*kept)

    def text(self, names: list[list[str]]) -> Text:
        """Rows of these classes, encoded when first needed: in fp32, and so that one can train with them."""
        key = tuple(map(tuple, names))
        if key not in self._texts:
            with torch.inference_mode(False), torch.autocast(self.device.type, enabled=False):
                self._texts[key] = encode(self.net.clip, names)
        self._texts[key] = self._texts[key].to(self.device)
        return self._texts[key]

    @property
    def seen(self) -> Tensor:
        """C bool: the classes asked for that share a name with one of the training."""
        return seen_classes(self.names, self.learnt).to(self.device)

    def check_data(self, data) -> None:
        """Scenes will do: each class is a mask then. Takes the set's synonyms."""
        if data.samples != "scenes":
            super().check_data(data)
        self.offered = getattr(data, "synonyms", None) or read_classes(list(data.classes))
        if [own[0] for own in self.offered] == self.classes and self.offered != self.names:
            self._learn(self.offered)
            self.recipe["classes"] = [",".join(own) for own in self.offered]     # what the weights will call seen

    def take_classes(self, classes: list[str], palette: list[tuple[int, int, int]] | None, where: str) -> None:
        """Any classes will do; their synonyms are those that `check_data` has found in the set."""
        same = [own[0] for own in self.offered] == list(classes)
        self._ask(self.offered if same else read_classes(list(classes)), palette)
        for line in notes(self.names, self.net.clip):
            say(line)

    def bases(self) -> dict[str, str]:
        return {name: sha256_of_tensors(part) for name, part in self.bases_by_name.items() if part is not None}

    # -- training ------------------------------------------------------------------------------------------------------
    def on_train_start(self) -> None:
        """Stage 2 starts from the row of "no class" that the generator was trained with, as the released scripts do."""
        if self.mixing.predicted and self.mixing.source == "generator" and self.global_step == 0:
            self.net.void_embedding.weight.data.copy_(self.net.generator.void)

    def training_step(self, batch: dict, index: int) -> Tensor:
        seen = self.net.features(pad(self.normalise(batch["image"]), self.net.clip.stride))
        text = self.text(self.learnt)
        mixed = self._mixed(one_by_one(batch), seen, text)
        sizes = self.asker.sizes(tuple(batch["image"].shape[-2:]), len(mixed))
        return self.log_losses(self.losses(mixed, seen, text, sizes))

    def losses(self, mixed: list[Mixed], seen: Features, text: Text, sizes: list[tuple[int, int]] | None) -> dict[str, Tensor]:
        """Weighted losses of the masks of B pictures; text: of the learnt classes; sizes: see MaskAdapterNet.embeddings."""
        embeddings = self.net.embeddings(seen.feature, seen.dense, [m.masks for m in mixed], sizes)
        rows = self.net.text_of(text.rows, seen.dense)
        logits = torch.cat([self.net.logits(e, t, text.counts) for e, t in zip(embeddings, rows)])
        losses = {"loss_ce": self.mixing.classification * classification(logits, torch.cat([m.labels for m in mixed]))}
        if self.mixing.predicted and self.mixing.consistency:
            said, meant = (torch.cat(side) for side in zip(*(m.paired(e) for m, e in zip(mixed, embeddings))))
            losses["loss_cosine"] = self.mixing.consistency * consistency(said, meant, self.mixing.slots(mixed))
        return losses

    def _mixed(self, samples: list[dict], seen: Features, text: Text) -> list[Mixed]:
        """The masks of each picture that train, on the padded picture."""
        proposals = [None] * len(samples)
        segments = [self._learnt_segments(sample) for sample in samples]
        if self.mixing.predicted and self.mixing.source == "generator":
            with torch.no_grad():
                proposals = self.net.generator(seen.stages, self.net.with_void(text.rows), text.counts).masks.sigmoid()
        elif self.mixing.predicted:
            proposals = [_quarter(rough(masks)) for masks, _ in segments]
        return [self.mixing.mix(masks, labels, own) for (masks, labels), own in zip(segments, proposals)]

    def _learnt_segments(self, sample: dict) -> tuple[Tensor, Tensor]:
        """The masks of a picture that may train, padded, and their places among the learnt classes."""
        masks, classes = segments_of(sample, self.ignore)
        labels = self.learnt_place[classes]
        return pad(masks[labels >= 0].float(), self.net.clip.stride), labels[labels >= 0]

    # -- answers -------------------------------------------------------------------------------------------------------
    def found(self, image: Tensor):
        """Log probabilities and masks of a picture that comes alone, see Asker.found."""
        return self.asker.found(image, self.text(self.names), self.seen)

    def scores(self, images: Tensor) -> Tensor:
        return torch.stack([semantic_rows(*self.found(image), 0, image.shape[-2]) for image in images])

    def label_map(self, image: Tensor, rows: int) -> Tensor:
        """As in `Segmenter`; the bands are as high as a budget of memory allows, whatever `rows` says."""
        return semantic(*self.found(image))

    def guess(self, image: Tensor, masks: Tensor) -> Tensor:
        """The best class of each mask, bool N H W."""
        return self.asker.given(image, masks, self.text(self.names)).argmax(-1)

    @torch.inference_mode()
    def predict(self, picture, classes: list[str] | str | None = None, masks=None) -> Segmentation:
        """picture: a file's path, H W 3 uint8, or 3 H W uint8 (RGB).

        classes: a list of names, each with its synonyms after commas, or a file of them; by default those it was trained on.
        masks: a folder (see proposals.given_masks) or bool N H W; by default the generator's or, where there is none,
        superpixels. Pixels of no mask are `ignore`.
        """
        image = as_image(picture)
        self.eval()
        with self.asked(classes):
            if masks is None:
                labels = self.inference.labels(self, image.to(self.device))
            else:
                given = given_masks(masks, picture, tuple(image.shape[-2:])).to(self.device)
                log_probs = self.asker.given(image.to(self.device), given, self.text(self.names))
                labels = paint(log_probs, given, self.ignore)
            photo = image.permute(1, 2, 0).numpy()
            return Segmentation(labels.cpu().numpy(), photo, self.classes, self.palette, self.ignore)

    def prepare(self, classes: list[str] | str | None = None, masks=None) -> dict:
        """Reads the classes once, and says what is odd about them."""
        if classes is None:
            return {"masks": masks}
        read = read_classes(classes)
        for line in notes(read, self.net.clip):
            say(line)
        return {"classes": [",".join(names) for names in read], "masks": masks}

    @torch.inference_mode()
    def panoptic(self, picture, classes=None, things: list[str] | None = None) -> tuple[Tensor, list[dict]]:
        """Segments of a picture, see inference.panoptic; things: names of the classes whose segments stay apart (None: all)."""
        self.eval()
        with self.asked(classes):
            return panoptic(*self.found(as_image(picture).to(self.device)), self._numbers(things))

    @torch.inference_mode()
    def instances(self, picture, classes=None, things: list[str] | None = None, top: int = 100) -> Instances:
        """The likeliest objects of a picture, see inference.instances; things: names of the classes looked for (None: all)."""
        self.eval()
        with self.asked(classes):
            return instances(*self.found(as_image(picture).to(self.device)), self._numbers(things), top)

    def _numbers(self, things: list[str] | None) -> set[int] | None:
        return None if things is None else {i for i, name in enumerate(self.classes) if name in things}

    # -- judging -------------------------------------------------------------------------------------------------------
    def evaluator(self, split: str) -> OpenVocabulary:
        seen = seen_classes(self.names, read_classes(self.seen_list)) if self.seen_list else self.seen
        things = sorted(self._numbers(self.things)) if self.things and self.judging.masks == "generator" else None
        return OpenVocabulary(self.classes, seen.tolist(), self.ignore, things)

    def _judge(self, split: str, batch: dict) -> None:
        metric = self.metrics[split]
        for sample in one_by_one(batch):
            masks, classes = segments_of(sample, self.ignore)
            if self.judging.masks == "truth":
                guess = self.guess(sample["image"], masks)
                metric.update_masks(guess, classes)
                labels = drawn(masks, guess, self.ignore)
            else:
                labels = self.inference.labels(self, sample["image"])
            metric.update(labels, drawn(masks, classes, self.ignore))
            if metric.panoptic is not None:
                self._judge_panoptic(metric, sample["image"], masks, classes)

    def _judge_panoptic(self, metric: OpenVocabulary, image: Tensor, masks: Tensor, classes: Tensor) -> None:
        numbers, segments = panoptic(*self.found(image), self._numbers(self.things))
        category = torch.tensor([-1, *(segment["category_id"] for segment in segments)])
        truth = drawn(masks, classes, -1), drawn(masks, torch.arange(1, len(masks) + 1), 0)
        metric.panoptic.update(torch.stack([category[numbers.long()], numbers.long()], -1), torch.stack(truth, -1).long())

    @torch.inference_mode()
    def panel(self, sample: dict) -> dict[str, np.ndarray]:
        image = sample["image"].to(self.device)
        masks, classes = (part.to(self.device) for part in segments_of(sample, self.ignore))
        guess = drawn(masks, self.guess(image, masks), self.ignore)
        maps = {"truth": drawn(masks, classes, self.ignore), "prediction": guess}
        if self.judging.masks != "truth":
            maps["prediction"] = self.inference.labels(self, image)
        shown = {key: colourise(labels.cpu().numpy(), self.palette, self.ignore) for key, labels in maps.items()}
        return {"image": to_picture(image)} | shown | activations(self.asker, image, masks)

    def closing(self, data, folder: Path) -> list[str]:
        """The upper bound, true masks named in several ways, as a table; and a picture of masks, names and activation maps."""
        return closing_lines(self.eval().to(self.trainer.strategy.root_device), data, folder)     # the trainer left it on the CPU


def _quarter(masks: Tensor) -> Tensor:
    """N H W, 0..1 -> N H/4 W/4, 0..1."""
    return F.avg_pool2d(masks[:, None].float(), 4, ceil_mode=True)[:, 0] if len(masks) else masks[:, ::4, ::4].float()
