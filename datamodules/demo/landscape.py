"""The landscape family of the demo world: photo-like scenes with the seven classes of MaSS13K and exact labels."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.demo import props
from datamodules.demo.canvas import Canvas, fork, generator, mix, noise, noise_line
from datamodules.demo.props import Light
from datamodules.demo.world import GROUND, LANDSCAPE_CLASSES, SKY, TREE, WATER

STREAM = 1  # keeps this family's random numbers apart from the other's

HOURS = [  # sky above, sky at the horizon, light; the last is night
    ([0.18, 0.42, 0.82], [0.72, 0.84, 0.95], [1.05, 1.0, 0.93]),
    ([0.62, 0.65, 0.7], [0.82, 0.83, 0.84], [0.8, 0.83, 0.86]),
    ([0.25, 0.24, 0.5], [0.98, 0.6, 0.3], [0.85, 0.58, 0.45]),
    ([0.45, 0.5, 0.75], [0.97, 0.8, 0.75], [0.92, 0.8, 0.78]),
    ([0.03, 0.05, 0.14], [0.15, 0.2, 0.36], [0.2, 0.24, 0.36]),
]
SEASONS = [  # leaves dark and bright, grass dark and bright, the share of bare trees
    (([0.16, 0.3, 0.08], [0.55, 0.72, 0.25]), ([0.2, 0.36, 0.1], [0.5, 0.66, 0.25]), 0.15),
    (([0.08, 0.22, 0.06], [0.34, 0.52, 0.18]), ([0.3, 0.38, 0.14], [0.66, 0.64, 0.3]), 0.05),
    (([0.45, 0.16, 0.05], [0.92, 0.62, 0.15]), ([0.36, 0.3, 0.14], [0.66, 0.56, 0.3]), 0.3),
    (([0.25, 0.22, 0.15], [0.7, 0.7, 0.68]), ([0.7, 0.72, 0.76], [0.95, 0.96, 1.0]), 0.75),
]
SOILS = [  # sand, earth, stone
    ([0.6, 0.5, 0.36], [0.88, 0.78, 0.6]),
    ([0.3, 0.22, 0.16], [0.52, 0.42, 0.32]),
    ([0.36, 0.36, 0.36], [0.6, 0.6, 0.6]),
]
THINGS = [  # what, least and greatest height in metres, width of its shadow in heights
    (props.tree, 5, 11, 0.3),
    (props.conifer, 6, 14, 0.15),
    (props.bush, 0.8, 2, 1.2),
    (props.person, 1.6, 1.9, 0.12),
    (props.lamp, 4, 7, 0.08),
    (props.car, 1.4, 1.6, 1.4),
    (props.bench, 0.8, 0.95, 1.2),
    (props.sign, 2.2, 3, 0.1),
]
WILD = [3, 3, 2, 4, 0.3, 0.4, 0.5, 0.3]  # how often each of them
SETTLED = {
    "street": [1, 0, 0.5, 6, 2, 3, 0.5, 1.5],
    "park": [4, 2, 2, 4, 1, 0.2, 1.5, 0.3],
    "town": [2, 0.5, 1, 4, 2, 2, 1, 1],
}


@dataclass
class Plan:
    """Where things are: the eye is `eye` metres above the ground; y is measured from the top in picture heights."""

    kind: str
    horizon: float
    eye: float
    vanish: float
    shore: tuple[float, float] | None  # water between these y
    aspect: float

    def metre(self, y: float) -> float:
        """How long a metre is that stands on the ground at y."""
        return max(y - self.horizon, 0.002) / self.eye

    def far(self, y: float) -> float:
        """Haze in front of something on the ground at y."""
        return float(np.clip(0.55 * math.exp(-(y - self.horizon) / 0.05), 0, 0.8))


def landscape(seed: int, index: int, size: tuple[int, int] = (256, 256)) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` of world `seed`: image uint8 [H, W, 3] RGB and labels uint8 [H, W] (0..6)."""
    stream = lambda *key: generator(STREAM, seed, index, *key)
    canvas = Canvas(size)
    light, plan = choose_light(stream(0)), choose_plan(stream(1), canvas.aspect)
    draw_sky(canvas, stream(2), light, plan)
    draw_far(canvas, stream(3), light, plan)
    draw_ground(canvas, stream(4), light, plan)
    draw_shore(canvas, stream(5), light, plan)
    if plan.shore:
        draw_water(canvas, stream(6), light, plan)
    if plan.kind == "street":
        draw_street(canvas, stream(7), light, plan)
    draw_things(canvas, stream(8), light, plan)
    draw_near(canvas, stream(9), light, plan)
    image, labels = canvas.finish(len(LANDSCAPE_CLASSES))
    return develop(image, stream(10), light), labels


def choose_light(rng) -> Light:
    """Season and time of day."""
    season = SEASONS[rng.integers(len(SEASONS))]
    hour = HOURS[rng.choice(len(HOURS), p=[0.4, 0.22, 0.16, 0.14, 0.08])]
    grass = SOILS[rng.integers(len(SOILS))] if rng.random() < 0.3 else season[1]
    jitter = lambda c: np.clip(np.asarray(c, np.float32) + rng.normal(0, 0.04, 3).astype(np.float32), 0.01, 1)
    top, low = jitter(hour[0]), jitter(hour[1])
    return Light(
        sky_top=top,
        sky_low=low,
        sun=(rng.uniform(0, 1.4), rng.uniform(0.05, 0.4)),
        colour=np.asarray(hour[2], np.float32),
        haze=mix(low, top, 0.2),
        leaves=(jitter(season[0][0]), jitter(season[0][1])),
        grass=(jitter(grass[0]), jitter(grass[1])),
        bare=season[2],
        night=hour is HOURS[-1],
    )


def choose_plan(rng, aspect: float) -> Plan:
    kind = rng.choice(["lake", "sea", "street", "park", "hills", "town"], p=[0.23, 0.2, 0.18, 0.13, 0.11, 0.15])
    horizon = rng.uniform(0.32, 0.62)
    eye = rng.choice([1.6, 1.8, 2.5, 4.0, 7.0])
    shore = None
    if kind == "lake":
        first = horizon + rng.uniform(0.015, 0.06)
        shore = (first, min(first + rng.uniform(0.15, 0.5), 1.2))
    elif kind == "sea":
        shore = (horizon, horizon + rng.uniform(0.15, 0.6))
    elif kind in ("town", "park") and rng.random() < 0.4:
        first = horizon + rng.uniform(0.04, 0.12)
        shore = (first, first + rng.uniform(0.08, 0.3))
    return Plan(str(kind), horizon, eye, rng.uniform(0.25, 0.75) * aspect, shore, aspect)


def draw_sky(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """A gradient from top to horizon, the glow of the sun, clouds lit from above."""
    canvas.image[:], canvas.labels[:] = light.haze, SKY
    frame = canvas.frame(0, 0, canvas.aspect, plan.horizon + 0.03)
    height, width = frame.mask.shape
    sun_x, sun_y = light.sun[0], light.sun[1] if not light.night else 0.15
    across, down = (np.linspace(0, end, 64, dtype=np.float32) for end in (canvas.aspect, frame.box[3]))
    glow = np.exp(-((across[None, :] - sun_x) ** 2 + (down[:, None] - sun_y) ** 2) / 0.08)
    sky = mix(light.sky_top, light.sky_low, np.clip(down / plan.horizon, 0, 1)[:, None] ** 1.4)
    sky = sky + glow[..., None] * light.colour * (0.04 if light.night else 0.25)
    sky = cv2.resize(sky.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    clouds = noise(rng, (height, width), (4, max(round(4 * canvas.aspect), 2)), 0.52)
    cover = np.clip((clouds + rng.uniform(-0.9, 0.6)) * 0.9, 0, 1) * rng.uniform(0.5, 0.95)
    step = max(canvas.height // 60, 1)
    lit = np.full_like(clouds, 0.6)
    lit[:-step] += 0.35 * (clouds[step:] - clouds[:-step])
    shade = mix(light.sky_top, light.haze, 0.6) * 0.8
    tone = mix(shade, np.minimum(light.colour * 1.05 + 0.05, 1), np.clip(lit, 0.2, 1.1))
    canvas.image[:height] = mix(sky, tone, cover)


def draw_far(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """Mountains one behind another down to the horizon; forest on some, bare ground on others."""
    height, width = canvas.shape
    layers = {"sea": 1, "street": 1, "town": 1, "park": 1}.get(plan.kind, 3) - (rng.random() < 0.4)
    pixel = np.arange(height, dtype=np.float32)[:, None] + 0.5
    for layer in range(layers):
        child = fork(rng)
        wooded = child.random() < 0.5
        rise = child.uniform(0.03, 0.16) * (layers - layer + 0.5) / layers
        ridge = (
            noise_line(child, width, int(child.integers(3, 7)), 0.36 if wooded else child.uniform(0.45, 0.56))
            * rise
            * 0.55
            + rise
        )
        if plan.kind == "sea":
            ridge -= rise * 0.9
        line = (plan.horizon - np.maximum(ridge, -0.02)) * height
        bottom = min(int((plan.horizon + 0.01) * height) + 2, height)
        top = int(np.clip(line.min() - 0.03 * height, 0, bottom - 1))
        box = canvas.frame(0, top / height, canvas.aspect, bottom / height)
        shape = box.mask.shape
        grain = noise(child, shape, (6, 20), 0.65)
        bumpy = grain * (0.006 if wooded else 0.0015) * height
        cover = np.clip(pixel[box.top : box.top + shape[0]] - line[None] + bumpy + 0.5, 0, 1)
        haze = 0.75 - 0.5 * (layer + 1) / layers
        tones = light.leaves if wooded else mix(light.grass, [[0.42, 0.4, 0.38]] * 2, child.random())
        colour = mix(np.asarray(tones[0]) * 0.7, np.asarray(tones[1]), np.clip(0.4 + 0.3 * grain, 0, 1))
        canvas.paint(cover, light.lit(colour, haze), TREE if wooded else GROUND, (box.top, box.left))


def draw_ground(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """The plain from the horizon to the feet, textured in perspective, perhaps with a path."""
    height, width = canvas.shape
    frame = canvas.frame(0, plan.horizon, canvas.aspect, 1)
    depth = np.maximum(frame.rows() - plan.horizon, 0.004)
    side = int(2 ** math.ceil(math.log2(height)))
    tile = noise(rng, (side, side), (16, 16), 0.75)
    u = (frame.columns() - plan.vanish) / depth * plan.eye * 0.02
    v = plan.eye / depth * 0.02 + 0 * frame.columns()
    fold = lambda a: (np.abs((a % 2) - 1) * (side - 1)).astype(np.float32)
    perspective = cv2.remap(tile, fold(u), fold(v), cv2.INTER_LINEAR)
    perspective *= np.clip(depth * 12, 0.15, 1)
    fine = noise(rng, frame.mask.shape, (20, 40), 0.9) * np.clip(depth * 3, 0.1, 1)
    tone = np.clip(0.5 + 0.3 * perspective + 0.2 * fine, 0, 1)
    colour = light.lit(mix(light.grass[0], light.grass[1], tone))
    colour = mix(colour, light.haze, 0.5 * np.exp(-depth / 0.06) + 0 * tone)
    cover = np.clip((frame.rows() - plan.horizon) * height + 0.5, 0, 1) + 0 * tone
    canvas.paint(cover, colour, GROUND, (frame.top, 0))
    if plan.kind == "street" or (plan.shore is None and rng.random() < 0.5):
        draw_path(canvas, rng, light, plan)


def draw_path(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """A road or path that runs to the vanishing point."""
    half = rng.uniform(3, 5) if plan.kind == "street" else rng.uniform(0.6, 2)
    bend = 0.0 if plan.kind == "street" else rng.normal(0, 1.2)
    y = plan.horizon + np.linspace(0.003, 1.05 - plan.horizon, 40)
    metre = (y - plan.horizon) / plan.eye
    middle = plan.vanish + rng.normal(0, 1) * metre + bend * np.sin((y - plan.horizon) * 9) * 0.12
    frame = canvas.frame(0, plan.horizon, canvas.aspect, 1)
    frame.fill(
        np.concatenate([np.stack([middle - half * metre, y], -1), np.stack([middle + half * metre, y], -1)[::-1]])
    )
    tone = (
        rng.uniform(0.25, 0.6) * np.array([1, 0.98, 0.95])
        if plan.kind == "street"
        else mix([0.5, 0.42, 0.32], [0.7] * 3, rng.random())
    )
    grain = frame.noise(rng, 0.02, 0.85, 3)
    frame.paint(light.lit(tone, 0.1), GROUND, 1 + 0.08 * grain)
    if plan.kind != "street":
        return
    for a in np.geomspace(0.01, 0.9, 12):
        ys = plan.horizon + np.array([a, a * 1.25]) * (1 - plan.horizon)
        m = (ys - plan.horizon) / plan.eye
        c = np.interp(ys, y, middle)
        frame.fill(
            [
                (c[0] - 0.1 * m[0], ys[0]),
                (c[0] + 0.1 * m[0], ys[0]),
                (c[1] + 0.1 * m[1], ys[1]),
                (c[1] - 0.1 * m[1], ys[1]),
            ]
        )
    frame.paint(light.lit([0.85, 0.85, 0.8]), GROUND)


def draw_shore(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """What stands on the far side: a skyline, a row of houses or trees."""
    foot = plan.shore[0] if plan.shore else plan.horizon + rng.uniform(0.005, 0.03)
    if plan.kind == "sea":
        return
    far = rng.uniform(0.15, 0.5)
    if plan.kind in ("town", "street") or rng.random() < 0.35:
        for _ in range(rng.integers(6, 16)):
            h = rng.uniform(0.04, 0.26 if plan.kind == "town" else 0.12)
            child = fork(rng)
            props.building(
                canvas,
                child,
                light,
                rng.uniform(0, canvas.aspect),
                foot,
                h,
                far,
                h * rng.uniform(0.35, 1.1),
                max(int(h * 60), 2),
            )
    if plan.kind != "town" or rng.random() < 0.5:
        grow = (props.bush, props.tree, props.conifer)[rng.integers(3)]
        for _ in range(rng.integers(5, 14)):
            h = rng.uniform(0.05, 0.14) * (0.5 if grow is props.bush else 1)
            child = fork(rng)
            grow(canvas, child, light, rng.uniform(0, canvas.aspect), foot + rng.uniform(0, 0.006), h, far * 0.8)


def draw_water(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """Water between the shores: what is above mirrored through ripples, tinted, with glints."""
    height, width = canvas.shape
    first, last = plan.shore
    frame = canvas.frame(0, first - 0.02, canvas.aspect, min(last + 0.1, 1))
    rows, shape = frame.rows(), frame.mask.shape
    near = last + 0.025 * noise_line(rng, width, 5)[None, :] if last < 1 else np.full((1, width), 2.0, np.float32)
    edge = first + (0.0 if plan.kind == "sea" else 0.006) * noise_line(rng, width, 9)[None, :]
    cover = np.clip((rows - edge) * height + 0.5, 0, 1) * np.clip((near - rows) * height + 0.5, 0, 1)
    depth = np.clip(rows - first, 0, 1)
    rough = rng.uniform(0.15, 1.0)
    ripples = noise(rng, shape, (max(int(shape[0] / height * 60), 4), max(int(6 * canvas.aspect), 2)), 0.75)
    shift = ripples * (0.004 + 0.12 * depth) * rough
    source_y = np.clip((2 * first - rows + shift) * height, 0, max(first * height - 1, 1)).astype(np.float32)
    source_x = (frame.columns() + 0.15 * shift).astype(np.float32) * height
    mirror = cv2.remap(canvas.image, source_x, source_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    deep = mix([0.05, 0.16, 0.22], [0.2, 0.3, 0.22], rng.random()) * light.colour * rng.uniform(0.6, 1.6)
    colour = mix(mirror * 0.9, deep, np.clip(0.25 + 0.9 * depth + 0.25 * ripples * rough, 0, 0.9))
    colour = mix(colour, light.sky_low * 1.2, 0.6 * np.clip(ripples - 1.3 + 0.5 * rough, 0, 1))
    foam = np.exp(-np.abs(near - rows) / 0.006) * (plan.kind == "sea")
    canvas.paint(cover, mix(colour, light.lit([0.95, 0.97, 1.0]), foam * 0.8), WATER, (frame.top, 0))


def draw_street(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """Two rows of houses that run to the vanishing point, far ones first."""
    for side in (-1, 1):
        offset = rng.uniform(5, 10)
        cuts = np.geomspace(0.012, 1.2, rng.integers(6, 10)) * (1.1 - plan.horizon)
        for near, back in zip(cuts[1:], cuts[:-1]):
            child = fork(rng)
            tall, wall = child.uniform(6, 18), props.wall_colour(child)
            if child.random() < 0.12:
                continue
            ends = [(plan.vanish + side * offset * d / plan.eye, plan.horizon + d, d / plan.eye) for d in (back, near)]
            (xb, yb, mb), (xn, yn, mn) = ends
            quad = [(xb, yb - tall * mb), (xn, yn - tall * mn), (xn, yn), (xb, yb)]
            quad = quad if side > 0 else [quad[1], quad[0], quad[3], quad[2]]
            far = plan.far(yb)
            if 0 < xn < canvas.aspect:  # the front that faces us
                out = xn + side * 8 * mn
                x0, x1 = min(xn, out), max(xn, out)
                props.roof(canvas, child, light, x0, x1, yn - tall * mn, 3 * mn, far)
                props.facade(
                    canvas,
                    child,
                    light,
                    [(x0, yn - tall * mn), (x1, yn - tall * mn), (x1, yn), (x0, yn)],
                    max(int(tall / 3), 1),
                    3,
                    wall * 0.8,
                    far,
                )
            columns = max(int((plan.eye / back - plan.eye / near) * 0.3), 1)
            props.facade(canvas, child, light, quad, max(int(tall / 3), 1), min(columns, 12), wall, far)


def places(rng, plan: Plan, count: int) -> list[tuple[float, float]]:
    """Spots on dry ground, far ones first."""
    spans = [(plan.horizon + 0.03, 1.02)]
    if plan.shore:
        spans = [(plan.shore[1] + 0.05, 1.04)] if plan.shore[1] < 0.95 else []
    if not spans:
        return []
    low, high = spans[0]
    spots = [(rng.uniform(0, plan.aspect), low + (high - low) * rng.random() ** 2.2) for _ in range(count)]
    return sorted(spots, key=lambda spot: spot[1])


def draw_things(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """Boats on the water, cables, then trees, persons and others on the ground."""
    if plan.shore:
        first, last = plan.shore[0] + 0.01, min(plan.shore[1], 0.95)
        for y in sorted(rng.uniform(first, last, rng.integers(0, 4))):
            h = 0.03 + 0.35 * (y - plan.shore[0])
            props.boat(canvas, fork(rng), light, rng.uniform(0, canvas.aspect), y, h, plan.far(y))
    if rng.random() < 0.3:
        props.cables(canvas, fork(rng), light, plan.horizon + 0.05, rng.uniform(0.15, 0.4))
    weights, large = np.array(SETTLED.get(plan.kind, WILD)), 0
    for x, y in places(rng, plan, int(rng.integers(5, 14))):
        draw, low, high, wide = THINGS[rng.choice(len(THINGS), p=weights / weights.sum())]
        child, h = fork(rng), rng.uniform(low, high) * plan.metre(y)
        large += h > 0.4
        if h > 0.4 and (large > 2 or h > 1.3):  # two large things leave a view
            continue
        h = min(h, 0.8)
        props.shadow(canvas, light, x, y, h * wide)
        draw(canvas, child, light, x, y, h, plan.far(y))


def draw_near(canvas: Canvas, rng, light: Light, plan: Plan) -> None:
    """What is close to the camera: a portrait, a bough, a railing, grass, a kite in the air."""
    if rng.random() < 0.12:
        props.kite(
            canvas,
            fork(rng),
            light,
            rng.uniform(0.1, 0.9) * canvas.aspect,
            rng.uniform(0.08, 0.3),
            rng.uniform(0.05, 0.14),
        )
    if rng.random() < 0.2:
        h = rng.uniform(0.9, 1.5)
        props.tree(canvas, fork(rng), light, rng.choice([0.06, 0.94]) * canvas.aspect, 1.02, h)
    if rng.random() < 0.25:
        props.blades(canvas, fork(rng), light, rng.uniform(0.88, 0.98), rng.uniform(0.08, 0.3))
    if rng.random() < 0.22:
        h = rng.uniform(0.9, 1.9)
        props.person(canvas, fork(rng), light, rng.uniform(0.2, 0.8) * canvas.aspect, rng.uniform(0.15, 0.4) + h, h)
    elif rng.random() < 0.15:
        props.railing(canvas, fork(rng), light, 1.02, rng.uniform(0.15, 0.3))


def develop(image: np.ndarray, rng, light: Light) -> np.ndarray:
    """What a camera does: exposure, tint, contrast, a little blur and noise; uint8."""
    exposure, gamma = rng.uniform(0.75, 1.25) * (2.2 if light.night else 1), rng.uniform(0.85, 1.2)
    tint = rng.normal(1, 0.06, 3).astype(np.float32) * exposure
    image = cv2.pow(np.clip(cv2.transform(image, np.diag(tint)), 0, 1), gamma)
    keep = rng.uniform(0.55, 1.15)
    image = cv2.transform(image, np.eye(3) * keep + (1 - keep) / 3)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image += rng.standard_normal(image.shape, np.float32) * rng.uniform(0.0, 0.035)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
