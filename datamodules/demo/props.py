"""Things that stand in a landscape: trees, buildings, persons, and what the seven classes call others.

Every function draws one thing whose foot is at (x, y) and which is `h` high (units of the picture's height).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.demo.canvas import Canvas, Frame, fork, mix, noise
from datamodules.demo.world import BUILDING, GROUND, OTHERS, PERSON, TREE


@dataclass
class Light:
    """Weather and season: colours are RGB in 0..1."""

    sky_top: np.ndarray
    sky_low: np.ndarray
    sun: tuple[float, float]
    colour: np.ndarray
    haze: np.ndarray
    leaves: tuple[np.ndarray, np.ndarray]
    grass: tuple[np.ndarray, np.ndarray]
    bare: float  # the share of trees without leaves
    night: bool

    def lit(self, colour, far: float = 0.0) -> np.ndarray:
        """A colour under this light, `far` (0..1) of it lost in haze."""
        colour = np.asarray(colour, np.float32)
        scale, shift = self.colour * np.float32(1 - far), self.haze * np.float32(far)
        if colour.ndim == 1:
            return colour * scale + shift
        return cv2.transform(colour, np.column_stack([np.diag(scale), shift]))


def shadow(canvas: Canvas, light: Light, x, y, wide):
    """The dark spot on the ground under a thing; the ground stays ground."""
    slant = 0.4 * wide * np.sign(x - light.sun[0])
    frame = canvas.frame(x - 1.5 * wide, y - 0.2 * wide, x + 1.5 * wide, y + 0.2 * wide)
    for size, value in ((1.0, 50), (0.75, 90), (0.5, 130)):
        frame.disc(x + slant * (size - 0.4), y, size * wide, 0.13 * size * wide, value=value)
    frame.paint(np.array([0.05, 0.05, 0.08]) * light.colour, None)


def bark(rng: np.random.Generator) -> np.ndarray:
    return mix([0.16, 0.11, 0.08], [0.45, 0.40, 0.36], rng.random()) * rng.uniform(0.7, 1.2)


def limbs(rng, x, y, h, finest, spread, depth, lean):
    """Branches and twigs: lines [N, 4, 2], widths [N], and the lines by level; stops where all is under `finest`."""
    root, angle = np.array([[x, y]]), np.array([-math.pi / 2 + lean])
    length, width = np.array([h * 0.30]), np.array([h * 0.045])
    levels, widths = [], []
    for level in range(depth):
        bend = rng.normal(0, 0.22, (len(root), 3)).cumsum(1) * min(level + 0.3, 1)
        heading = angle[:, None] + bend
        steps = np.stack([np.cos(heading), np.sin(heading)], -1) * length[:, None, None] / 3
        levels.append(np.concatenate([root[:, None], root[:, None] + steps.cumsum(1)], 1))  # N 4 2
        widths.append(width)
        side = np.array([-0.75, 0.55, 1.35]) * rng.choice([-1, 1], (len(root), 1))
        root = levels[-1][:, [3, 3, 2]].reshape(-1, 2)  # two go on from the end, one leaves before it
        angle = (heading[:, -1:] + side * spread + rng.normal(0, 0.25, side.shape)).reshape(-1)
        angle += 0.10 * np.sin(-math.pi / 2 - angle)  # up, a little
        length = (length[:, None] * rng.uniform(0.58, 0.86, side.shape)).reshape(-1)
        width = np.repeat(width * 0.58, 3)
        if length.max() < finest * 2 or width.max() < finest * 0.12:
            break
    return np.concatenate(levels), np.concatenate(widths), levels


def foliage(frame: Frame, rng, tips, radius, cell, density=0.0):
    """Leaf clusters round the tips: cover [h, w] in 0..1 and the leaf noise that made it."""
    x0, y0, x1, y1 = frame.box
    grid = 96 / max(y1 - y0, x1 - x0, 1e-6)
    shape = (max(round((y1 - y0) * grid), 2), max(round((x1 - x0) * grid), 2))
    cluster = np.zeros(shape, np.uint8)
    for px, py in (tips - (x0, y0)) * grid:
        cv2.circle(cluster, (int(px), int(py)), max(int(radius * grid), 1), 255, -1)
    soft = cv2.GaussianBlur(cluster.astype(np.float32) / 255, (0, 0), max(radius * grid * 0.6, 0.8))
    field = cv2.resize(soft, frame.mask.shape[::-1], interpolation=cv2.INTER_CUBIC)
    grain = frame.noise(rng, cell, 0.8)
    edge = max(0.9 * frame.scale * cell, 2.0)
    return np.clip((field - 0.5 + density + 0.24 * grain) * edge + 0.5, 0, 1) * (field > 0.06), grain


def tree(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    """A broad-leaved tree, or a bare one."""
    bare, spread = rng.random() < light.bare, rng.uniform(0.38, 0.62)
    lines, widths, levels = limbs(rng, x, y, h, 1 / canvas.height, spread, 9 if bare else 7, rng.normal(0, 0.06))
    frame = canvas.frame(x - 0.75 * h, y - 1.12 * h, x + 0.75 * h, y + 0.02 * h)
    wood = bark(rng)
    frame.strokes(lines, widths)
    frame.fill([(x - 0.035 * h, y), (x - 0.02 * h, y - 0.2 * h), (x + 0.02 * h, y - 0.2 * h), (x + 0.035 * h, y)])
    shade = 0.8 + 0.3 * np.clip((frame.columns() - x) / h * np.sign(light.sun[0] - x), -0.5, 0.5)
    frame.paint(light.lit(wood, far), TREE, shade)
    if bare:
        return
    tips = levels[min(5, len(levels) - 1)][:, -1]
    leaf_rng = fork(rng)
    cover, grain = foliage(frame, leaf_rng, tips, h * rng.uniform(0.05, 0.1), h * 0.06, rng.uniform(-0.08, 0.12))
    paint_leaves(frame, leaf_rng, light, cover, grain, x, y - 0.6 * h, h, far)


def paint_leaves(frame: Frame, rng, light: Light, cover, grain, x, y, h, far):
    """Leaves: two tones through noise, brighter towards the sun, darker inside and below."""
    a, b = (np.clip(tone * rng.uniform(0.75, 1.25) + rng.normal(0, 0.02, 3), 0, 1) for tone in light.leaves)
    sunny = np.sign(light.sun[0] - x) * (frame.columns() - x) / h * 0.5 - (frame.rows() - y) / h * 0.7
    tone = 0.5 + 0.5 * np.tanh(2 * (sunny - 0.05 + 0.3 * grain))
    colour = mix(a * 0.45, b * 1.15, tone)
    frame.canvas.paint(cover.astype(np.float32), light.lit(colour, far), TREE, (frame.top, frame.left))


def conifer(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    """A fir: a trunk and drooping boughs with needles."""
    frame = canvas.frame(x - 0.36 * h, y - 1.06 * h, x + 0.36 * h, y + 0.02 * h)
    frame.fill([(x - 0.02 * h, y), (x, y - h), (x + 0.02 * h, y)])
    frame.paint(light.lit(bark(rng), far), TREE)
    count = rng.integers(14, 26)
    t = np.repeat(np.linspace(0.12, 0.99, count), 2)
    side = np.tile([-1.0, 1.0], count)
    reach = h * rng.uniform(0.2, 0.32) * (1 - t) * rng.uniform(0.75, 1.15, len(t)) + 0.01 * h
    root = np.stack([np.full(len(t), x), y - t * h], -1)
    tip = root + np.stack([side * reach, reach * rng.uniform(0.1, 0.45, len(t))], -1)
    along = np.linspace(0, 1, 28)[None, :, None]
    bough = root[:, None] * (1 - along) + tip[:, None] * along  # N 28 2
    needle = np.stack([side, np.full(len(t), 1.2)], -1)[:, None] * reach[:, None, None] * 0.28 * (1.15 - along)
    needle = needle * rng.uniform(0.5, 1.3, (len(t), 28, 1))
    up = needle * np.array([1.2, -0.35])
    lines = np.concatenate([np.stack([bough, bough + needle], 2), np.stack([bough, bough + up], 2)]).reshape(-1, 2, 2)
    frame.strokes(lines, 0.0034 * h).strokes(np.stack([root, tip], 1), 0.012 * h)
    grain, cover = frame.noise(rng, 0.08 * h, 0.7), frame.mask * np.float32(1 / 255)
    green = Light(**{**vars(light), "leaves": (np.array([0.05, 0.16, 0.1]), np.array([0.2, 0.4, 0.2]))})
    paint_leaves(frame, rng, green, cover, grain, x, y - 0.5 * h, h, far)


def bush(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    frame = canvas.frame(x - 1.6 * h, y - 1.5 * h, x + 1.6 * h, y + 0.06 * h)
    tips = np.stack([x + rng.normal(0, 0.45 * h, 16), y - rng.uniform(0.05, 0.6, 16) * h], -1)
    cover, grain = foliage(frame, rng, tips, 0.28 * h, 0.1 * h, 0.05)
    sag = 1 - ((frame.columns() - x) / (1.5 * h)) ** 2  # round at the foot too
    cover *= np.clip((y - 0.25 * h * (1 - sag) + 0.05 * h * grain - frame.rows()) * frame.scale, 0, 1)
    paint_leaves(frame, rng, light, cover, grain, x, y - 0.5 * h, h, far)


# ---- buildings


def cell_texture(rng, wall, glass, pixels):
    """One window with its piece of wall, [pixels, pixels, 3]."""
    tile = np.empty((pixels, pixels, 3), np.float32)
    tile[:] = wall
    left, right = rng.uniform(0.12, 0.3), rng.uniform(0.7, 0.88)
    top, bottom = rng.uniform(0.12, 0.28), rng.uniform(0.72, 0.92)
    box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]]) * pixels
    mask = np.zeros((pixels, pixels), np.uint8)
    cv2.fillConvexPoly(mask, np.round(box * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    frame_colour = np.clip(wall * rng.uniform(0.6, 1.5), 0, 1)
    tile += (mask / 255.0).astype(np.float32)[..., None] * (frame_colour - tile)
    inner = cv2.erode(mask, np.ones((max(pixels // 12, 1),) * 2, np.uint8))
    if rng.random() < 0.6:
        inner[:, pixels // 2 - max(pixels // 32, 0) : pixels // 2 + max(pixels // 32, 1)] = 0
    return tile, inner > 127


def facade(canvas: Canvas, rng, light: Light, quad, floors, columns, wall, far=0.0, windows=True):
    """A wall with windows on a quadrilateral: corners from top left, clockwise, in units."""
    quad = np.asarray(quad, np.float32)
    frame = canvas.frame(*quad.min(0), *quad.max(0)).fill(quad)
    tall = max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1])) * canvas.height / floors
    pixels = int(np.clip(2 ** round(math.log2(max(tall, 1))), 4, 64))
    glass = mix(light.sky_low * 0.6, [0.12, 0.14, 0.18], rng.uniform(0.3, 0.9))
    tile, pane = cell_texture(rng, wall, glass, pixels)
    texture = np.tile(tile, (floors, columns, 1))
    if windows:
        lamp = rng.random((floors, columns, 1)) < (0.35 if light.night else 0.03)
        shine = mix(glass * rng.uniform(0.6, 1.3, (floors, columns, 1)), [1.6, 1.3, 0.7], lamp[..., 0] * 1.0)
        shine = np.kron(shine, np.ones((pixels, pixels, 1), np.float32))
        texture = np.where(np.tile(pane, (floors, columns))[..., None], shine, texture)
    else:
        texture[:] = wall
    stain = noise(rng, texture.shape[:2], (3, 4))
    texture = mix(np.zeros(3), texture, 1 + 0.06 * stain)
    corners = np.array([[0, 0], [texture.shape[1], 0], [texture.shape[1], texture.shape[0]], [0, texture.shape[0]]])
    warp = cv2.getPerspectiveTransform(corners.astype(np.float32), frame.pixels(quad).astype(np.float32))
    size = frame.mask.shape[::-1]
    look = cv2.warpPerspective(texture.astype(np.float32), warp, size, None, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)
    frame.paint(light.lit(look, far), BUILDING)


def wall_colour(rng):
    kind = rng.integers(5)
    base = [(0.72, 0.66, 0.58), (0.6, 0.32, 0.24), (0.55, 0.57, 0.6), (0.85, 0.83, 0.8), rng.uniform(0.3, 0.8, 3)][kind]
    return np.clip(np.asarray(base) * rng.uniform(0.75, 1.15) + rng.normal(0, 0.03, 3), 0.05, 1).astype(np.float32)


def roof(canvas: Canvas, rng, light: Light, x0, x1, y, storey, far):
    """A gable with a chimney, or a flat roof with a tank and antennas, above the wall's top edge."""
    wide = x1 - x0
    frame = canvas.frame(x0 - 0.1 * wide, y - 3 * storey, x1 + 0.1 * wide, y + 0.02)
    if rng.random() < 0.5:
        rise, slope = storey * rng.uniform(0.8, 1.4), wide * rng.uniform(0.05, 0.45)
        at = x0 + wide * rng.uniform(0.2, 0.75)
        frame.fill([(at, y - rise * 1.25), (at + wide * 0.08, y - rise * 1.25), (at + wide * 0.08, y), (at, y)])
        eave = wide * 0.04
        frame.fill([(x0 - eave, y), (x0 + slope, y - rise), (x1 - slope, y - rise), (x1 + eave, y)])
        tint = mix([0.45, 0.2, 0.14], [0.25, 0.25, 0.28], rng.random())
    else:
        at, tall = x0 + wide * rng.uniform(0.1, 0.6), storey * rng.uniform(0.3, 0.8)
        frame.fill([(at, y - tall), (at + wide * 0.25, y - tall), (at + wide * 0.25, y), (at, y)])
        frame.fill([(x0, y - 0.12 * storey), (x1, y - 0.12 * storey), (x1, y), (x0, y)])
        tint = np.array([0.4, 0.38, 0.36]) * rng.uniform(0.6, 1.4)
    for _ in range(rng.integers(0, 4)):
        at, tall = x0 + wide * rng.uniform(0.1, 0.9), storey * rng.uniform(0.8, 2.4)
        bars = [[(at, y), (at, y - tall)]]
        bars += [[(at - tall * w, y - tall * k), (at + tall * w, y - tall * k)] for k, w in ((0.95, 0.1), (0.8, 0.16))]
        frame.strokes(np.array(bars), storey * 0.035)
    grain = frame.noise(rng, max(storey * 0.3, 0.004), 0.7, 3)
    frame.paint(light.lit(tint, far), BUILDING, 1 + 0.1 * grain)


def building(canvas: Canvas, rng, light: Light, x, y, h, far=0.0, wide=None, floors=None, side=None):
    """A house or block seen from the front; `side` (dx, horizon) adds its flank, running to the vanishing point dx."""
    floors = int(floors or rng.integers(2, 9))
    storey = h / floors
    wide = wide or h * rng.uniform(0.5, 1.4)
    columns = max(int(wide / storey * rng.uniform(0.8, 1.3)), 1)
    wall = wall_colour(rng)
    x0, x1 = x - wide / 2, x + wide / 2
    if side is not None:
        vx, vy = side
        near, depth = (x1, rng.uniform(0.15, 0.5)) if vx > x1 else (x0, rng.uniform(0.15, 0.5))
        if vx > x1 or vx < x0:
            bx = near + (vx - near) * depth
            top, bottom = y - h + (vy - y + h) * depth, y + (vy - y) * depth
            quad = [(near, y - h), (bx, top), (bx, bottom), (near, y)]
            quad = quad if vx > x1 else [quad[1], quad[0], quad[3], quad[2]]
            flank = max(int(columns * rng.uniform(0.6, 2)), 1)
            facade(canvas, rng, light, quad, floors, flank, wall * rng.uniform(0.6, 0.85), far)
    roof(canvas, rng, light, x0, x1, y - h, storey, far)
    facade(canvas, rng, light, [(x0, y - h), (x1, y - h), (x1, y), (x0, y)], floors, columns, wall, far)


# ---- persons


def person(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    """A standing or walking person; one much taller than the picture shows as a portrait."""
    frame = canvas.frame(x - 0.5 * h, y - 1.1 * h, x + 0.5 * h, y + 0.02 * h)
    skin = mix([0.32, 0.2, 0.14], [0.95, 0.76, 0.65], rng.random())
    top, legs = (np.clip(rng.uniform(0.05, 0.9, 3), 0, 1) for _ in range(2))
    hair = mix([0.06, 0.04, 0.03], [0.75, 0.6, 0.35], rng.random() ** 2) * rng.uniform(0.7, 1.1)
    stride, swing = rng.uniform(0.02, 0.1), rng.normal(0, 0.05, 2)
    at = lambda dx, dy: (x + dx * h, y - dy * h)
    shade = 1 + 0.18 * np.sign(light.sun[0] - x) * np.clip((frame.columns() - x) / h * 8, -1, 1)
    tone = shade * (1 + 0.05 * frame.noise(rng, 0.06 * h, 0.7))

    def part(colour):
        frame.paint(light.lit(colour, far), PERSON, tone)

    skirt = rng.random() < 0.3
    for side in (-1, 1):
        foot = side * stride
        frame.strokes(
            np.array([[at(side * 0.04, 0.5), at(side * 0.05 + foot * 0.4, 0.26), at(foot + side * 0.03, 0.02)]]),
            0.055 * h,
        )
        frame.disc(*at(foot + side * 0.04, 0.012), 0.04 * h, 0.014 * h)
    part(skin if skirt else legs)
    if skirt:
        frame.fill([at(-0.065, 0.56), at(0.065, 0.56), at(0.13, 0.27), at(-0.13, 0.27)])
        part(legs)
    for side, lean in zip((-1, 1), swing):
        frame.strokes(
            np.array([[at(side * 0.105, 0.79), at(side * 0.15 + lean, 0.62), at(side * 0.14 + lean * 2, 0.47)]]),
            0.042 * h,
        )
        part(top * 0.9)
        frame.disc(*at(side * 0.14 + lean * 2, 0.455), 0.02 * h, 0.026 * h)
        part(skin)
    shoulder = [at(-0.12, 0.79), at(-0.09, 0.82), at(-0.03, 0.84), at(0.03, 0.84), at(0.09, 0.82), at(0.12, 0.79)]
    frame.fill([*shoulder, at(0.085, 0.66), at(0.08, 0.48), at(-0.08, 0.48), at(-0.085, 0.66)])
    part(top)
    head(canvas, rng, light, frame, part, x, y, h, skin, hair)


def head(canvas, rng, light, frame, part, x, y, h, skin, hair):
    """Neck, face and hair; the strands are single lines that the wind lifts off the head."""
    at = lambda dx, dy: (x + dx * h, y - dy * h)
    long, wind = rng.uniform(0.03, 0.22), rng.normal(0, 0.6)
    count, fine = (1100, 0.0009 * h) if h > 0.6 else (220, 0.0026 * h)  # a portrait shows single hairs
    start = rng.uniform(math.pi * 1.0, math.pi * 2.0, count)
    root = np.stack([x + 0.05 * h * np.cos(start), y - 0.93 * h + 0.062 * h * np.sin(start)], -1)
    reach = h * long * rng.uniform(0.4, 1.1, count)[:, None]
    fall = np.stack([np.cos(start) * 0.35 + wind * rng.uniform(0.2, 1.2, count), rng.uniform(0.5, 1.1, count)], -1)
    t = np.linspace(0, 1, 11)[None, :, None]
    out = np.stack([np.cos(start), np.sin(start)], -1)[:, None] * 0.018 * h * np.sin(math.pi * t)
    curl = 0.006 * h * np.sin(t * rng.uniform(2, 9, (count, 1, 1)) + start[:, None, None])
    strands = root[:, None] + out + fall[:, None] * reach[:, None] * t**1.4 + curl
    frame.strokes(strands, fine)
    part(hair)
    frame.fill([at(-0.025, 0.9), at(0.025, 0.9), at(0.032, 0.82), at(-0.032, 0.82)])
    part(skin * 0.85)
    frame.disc(*at(0, 0.925), 0.048 * h, 0.064 * h)
    part(skin)
    for side in (-1, 1):
        frame.disc(*at(side * 0.018, 0.932), 0.007 * h, 0.004 * h)
    frame.strokes(np.array([[at(-0.014, 0.894), at(0, 0.890), at(0.014, 0.894)]]), 0.005 * h)
    part(skin * 0.4)
    arc = np.linspace(math.pi * 1.02, math.pi * 1.98, 24)
    cap = np.stack([x + 0.054 * h * np.cos(arc), y - 0.935 * h + 0.07 * h * np.sin(arc)], -1)
    fringe = np.stack([x + 0.046 * h * np.cos(arc[::-1]), y - 0.945 * h + 0.03 * h * np.sin(arc[::-1])], -1)
    frame.fill(np.concatenate([cap, fringe])).strokes(strands[np.abs(np.cos(start)) > 0.85], fine)
    part(hair * 1.1)


# ---- others


def lamp(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    reach = h * rng.uniform(-0.2, 0.2)
    frame = canvas.frame(x - 0.3 * h, y - 1.1 * h, x + 0.3 * h, y + 0.01)
    arm = [(x, y), (x, y - 0.9 * h), (x + reach * 0.3, y - 0.98 * h), (x + reach, y - h)]
    frame.strokes(np.array([arm]), 0.016 * h).strokes(np.array([[(x, y), (x, y - 0.2 * h)]]), 0.03 * h)
    frame.disc(x + reach, y - h, 0.04 * h, 0.018 * h)
    frame.paint(light.lit(np.array([0.2, 0.22, 0.22]) * rng.uniform(0.5, 2), far), OTHERS)


def car(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    wide, face = 2.7 * h, rng.choice([-1, 1])
    frame = canvas.frame(x - wide, y - 1.2 * h, x + wide, y + 0.1 * h)
    at = lambda dx, dy: (x + face * dx * wide / 2, y - dy * h)
    paint = np.clip(rng.choice([0.1, 0.5, 0.9]) + rng.normal(0, 0.25, 3), 0.05, 1)
    body = [
        at(-1, 0.25),
        at(-0.98, 0.6),
        at(-0.6, 0.66),
        at(-0.38, 1),
        at(0.3, 1),
        at(0.58, 0.64),
        at(0.97, 0.55),
        at(1, 0.25),
    ]
    frame.fill(body)
    frame.paint(light.lit(paint, far), OTHERS, 0.75 + 0.5 * np.clip((y - frame.rows()) / h, 0, 1))
    frame.fill([at(-0.48, 0.68), at(-0.33, 0.93), at(-0.05, 0.93), at(-0.05, 0.68)])
    frame.fill([at(0.0, 0.68), at(0.0, 0.93), at(0.27, 0.93), at(0.48, 0.68)])
    frame.paint(light.lit(mix([0.1, 0.12, 0.15], light.sky_low, 0.3), far), OTHERS)
    for dx in (-0.6, 0.6):
        frame.disc(*at(dx, 0.22), 0.22 * h, 0.22 * h)
    frame.paint(light.lit([0.06, 0.06, 0.07], far), OTHERS)
    for dx in (-0.6, 0.6):
        frame.disc(*at(dx, 0.22), 0.1 * h, 0.1 * h)
    frame.paint(light.lit([0.5, 0.5, 0.52], far), OTHERS)


def bench(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    frame = canvas.frame(x - 1.2 * h, y - 1.1 * h, x + 1.2 * h, y + 0.02)
    slats = [[(x - h, y - k * h), (x + h, y - k * h)] for k in (0.48, 0.55, 0.72, 0.84, 0.96)]
    legs = [[(x + k * h, y), (x + k * h, y - 0.98 * h)] for k in (-0.8, 0.8)]
    frame.strokes(np.array(slats), 0.075 * h).strokes(np.array(legs), 0.06 * h)
    frame.paint(light.lit(mix([0.35, 0.2, 0.1], [0.3, 0.3, 0.3], rng.random()), far), OTHERS)


def sign(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    frame = canvas.frame(x - 0.3 * h, y - 1.05 * h, x + 0.3 * h, y + 0.01)
    frame.strokes(np.array([[(x, y), (x, y - 0.8 * h)]]), 0.03 * h)
    frame.paint(light.lit([0.5, 0.5, 0.5], far), OTHERS)
    for size, colour in ((0.11, rng.uniform(0, 1, 3)), (0.085, np.ones(3) * 0.9)):
        frame.disc(x, y - 0.83 * h, size * h, size * h)
        frame.paint(light.lit(colour, far), OTHERS)


def boat(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    frame = canvas.frame(x - 0.6 * h, y - 1.05 * h, x + 0.6 * h, y + 0.06 * h)
    frame.fill(
        [
            (x - 0.4 * h, y - 0.12 * h),
            (x + 0.45 * h, y - 0.14 * h),
            (x + 0.33 * h, y + 0.02 * h),
            (x - 0.3 * h, y + 0.02 * h),
        ]
    )
    frame.strokes(np.array([[(x, y - 0.1 * h), (x, y - h)]]), 0.014 * h)
    frame.paint(light.lit(rng.uniform(0.1, 0.9, 3), far), OTHERS)
    frame.fill([(x + 0.02 * h, y - 0.95 * h), (x + 0.36 * h, y - 0.2 * h), (x + 0.02 * h, y - 0.2 * h)])
    frame.fill([(x - 0.02 * h, y - 0.8 * h), (x - 0.26 * h, y - 0.22 * h), (x - 0.02 * h, y - 0.22 * h)])
    frame.paint(light.lit(mix([0.92, 0.92, 0.9], rng.uniform(0.2, 1, 3), rng.random() * 0.7), far), OTHERS)


def kite(canvas: Canvas, rng, light: Light, x, y, h, far=0.0):
    """A kite in the sky at (x, y) with its line down to the ground."""
    foot = (x + rng.normal(0, 0.25), 1.05)
    frame = canvas.frame(0, 0, canvas.aspect, 1)
    t = np.linspace(0, 1, 24)[:, None]
    line = np.array([[x, y]]) * (1 - t) + np.array([foot]) * t + np.array([[0, 0.08]]) * np.sin(math.pi * t)
    frame.strokes(line[None], 0.0016)
    tail = np.stack([x - 0.02 * np.sin(t[:, 0] * 9), y + h * 0.5 + t[:, 0] * h * 1.2], -1)
    frame.strokes(tail[None], 0.004)
    frame.paint(light.lit([0.3, 0.3, 0.3]), OTHERS)
    for mirror, colour in ((-1, rng.uniform(0.1, 1, 3)), (1, rng.uniform(0.1, 1, 3))):
        wing = canvas.frame(x - h, y - h, x + h, y + h)
        wing.fill([(x, y - 0.5 * h), (x + mirror * 0.38 * h, y - 0.1 * h), (x, y + 0.5 * h)])
        wing.paint(light.lit(colour), OTHERS)


def cables(canvas: Canvas, rng, light: Light, y, h):
    """Poles with sagging wires across the whole picture."""
    step, sag = rng.uniform(0.35, 0.8), rng.uniform(0.02, 0.06)
    posts = np.arange(rng.uniform(-step, 0), canvas.aspect + step, step)
    rise = rng.normal(0, 0.06)
    top = y - h + rise * posts
    frame = canvas.frame(0, min(top) - 0.05, canvas.aspect, y + 0.1)
    t = np.linspace(0, 1, 20)
    wires = []
    for drop in (0.0, 0.05, 0.12):
        for a, b, ya, yb in zip(posts[:-1], posts[1:], top[:-1], top[1:]):
            wires.append(np.stack([a + (b - a) * t, ya + (yb - ya) * t + drop * h + sag * 4 * t * (1 - t)], -1))
    frame.strokes(np.array(wires), 0.0022)
    poles = np.array([[(a, y + 0.05), (a, b - 0.02)] for a, b in zip(posts, top)])
    arms = np.array(
        [[(a - 0.05 * h, b + k * h), (a + 0.05 * h, b + k * h)] for a, b in zip(posts, top) for k in (0, 0.05, 0.12)]
    )
    frame.strokes(poles, 0.02 * h).strokes(arms, 0.012 * h)
    frame.paint(light.lit(np.array([0.22, 0.18, 0.15])), OTHERS)


def railing(canvas: Canvas, rng, light: Light, y, h):
    """A railing along the lower border, nearest of all."""
    gap, tilt = h * rng.uniform(0.12, 0.3), rng.normal(0, 0.04)
    frame = canvas.frame(0, y - h - 0.2, canvas.aspect, 1)
    x = np.arange(0, canvas.aspect + gap, gap)
    bars = np.stack([np.stack([x, y + tilt * x + 0.3], -1), np.stack([x, y - h + tilt * x], -1)], 1)
    ends = np.array([[(0, y - k * h), (canvas.aspect, y - k * h + tilt * canvas.aspect)] for k in (1.0, 0.86, 0.1)])
    frame.strokes(bars, 0.022 * h).strokes(bars[::8], 0.06 * h).strokes(ends, [0.07 * h, 0.03 * h, 0.04 * h])
    tone = 0.8 + 0.12 * frame.noise(rng, 0.05, 0.6, 4)
    frame.paint(light.lit(mix([0.15, 0.15, 0.16], [0.75, 0.75, 0.72], rng.random())), OTHERS, tone)


def blades(canvas: Canvas, rng, light: Light, y, h, count=500):
    """Blades of grass and stalks standing up from y and below."""
    foot = np.stack([rng.uniform(-0.05, canvas.aspect + 0.05, count), y + rng.random(count) ** 0.7 * (1.1 - y)], -1)
    tall = h * rng.uniform(0.3, 1.0, count) ** 1.5
    lean = rng.normal(0.1, 0.35, count)
    t = np.linspace(0, 1, 6)[None, :, None]
    bend = np.stack([lean, -np.ones(count)], -1)[:, None] * tall[:, None, None]
    lines = foot[:, None] + bend * t * np.array([1, 1]) * np.concatenate([t, np.ones_like(t)], -1)
    frame = canvas.frame(0, y - 1.2 * h, canvas.aspect, 1)
    for k, tone in enumerate((0.15, 0.6, 1.0)):
        frame.strokes(lines[k::3], 0.009 * h).strokes(lines[k::3, :4], 0.02 * h)
        frame.paint(light.lit(mix(light.grass[0] * 0.5, light.grass[1] * 1.1, tone)), GROUND)
