"""Emoji scenes: endless captioned pictures whose factors (background, layout, identity, detail) are known.

One to three Noto colour emoji (Debian's fonts-noto-color-emoji; SIL OFL 1.1 font, Apache-2.0 art) at random places and
sizes on a plain, fading or two-tone background, with a caption in words. Places and sizes are multiples of a twelfth of
the picture, so that a small latent network has few forms of each object to learn. The same seed gives the same scenes.

    python training/scenes.py --out scenes.png --count 16

Scenes that prompts describe, in turn, as images [N, H, W, 3] of a data set, such as what samples are held against:

    python training/scenes.py --out scenes.npz --count 10000 --prompt "a red apple and a fox on a blue background"
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from underpaint.bounds import MOST_ITEMS, SEEDS, check_integers
from underpaint.cli.base import in_a_sentence
from underpaint.files import check_targets, replacing

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP = 109  # the only size the font holds

#: Few, and none that another could be taken for at 48 pixels, by its outline or its colour.
OBJECTS = {
    "red apple": "🍎",
    "banana": "🍌",
    "pineapple": "🍍",
    "carrot": "🥕",
    "mushroom": "🍄",
    "pizza": "🍕",
    "cup of coffee": "☕",
    "teddy bear": "🧸",
    "fox": "🦊",
    "frog": "🐸",
    "penguin": "🐧",
    "octopus": "🐙",
    "butterfly": "🦋",
    "sunflower": "🌻",
    "cactus": "🌵",
    "pine tree": "🌲",
    "star": "⭐",
    "snowman": "⛄",
    "red heart": "❤",
    "ghost": "👻",
    "pumpkin": "🎃",
    "school bus": "🚌",
    "rocket": "🚀",
    "gift": "🎁",
}
NAMES = tuple(OBJECTS)

COLOURS = {
    "red": (214, 60, 58),
    "orange": (240, 150, 60),
    "yellow": (247, 220, 98),
    "green": (96, 172, 86),
    "blue": (84, 146, 222),
    "purple": (148, 100, 190),
    "pink": (244, 168, 196),
    "brown": (140, 100, 72),
    "white": (248, 248, 246),
    "grey": (156, 158, 162),
    "black": (34, 34, 40),
}
COLOUR_NAMES = tuple(COLOURS)
#: Shares of scenes with one, two and three objects: for the autoencoder and the reader, and for the latent network,
#: which learns single objects, large and alone, much sooner.
EVEN, SPARSE = (0.35, 0.45, 0.2), (0.65, 0.3, 0.05)
#: Places and sizes are multiples of 1/CELLS of the picture's edge.
CELLS = 12
KINDS = ("plain", "fading", "two-tone")
#: Edges that objects may have, by how many there are.
_EDGES = {1: (6, 7, 8), 2: (5, 6), 3: (4, 5)}
#: The words for each kind of background, colours from the top down.
_BACKGROUNDS = {
    "plain": r" on an? (?P<first>\w+) background",
    "fading": r" on a background fading from (?P<first>\w+) to (?P<second>\w+)",
    "two-tone": r" on (?P<second>\w+) ground under an? (?P<first>\w+) sky",
}


@dataclass(frozen=True)
class Placed:
    """One object: index into NAMES, centre and edge as shares of the picture's edge."""

    name: int
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``colours`` are one or two indices into COLOUR_NAMES, from the top down."""

    objects: tuple[Placed, ...]
    kind: str
    colours: tuple[int, ...]

    def caption(self, rng: np.random.Generator) -> str:
        order = rng.permutation(len(self.objects))
        things = [f"{_article(NAMES[self.objects[i].name])} {NAMES[self.objects[i].name]}" for i in order]
        text = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
        text += " " + self._background()
        placed = self.objects[order[rng.integers(len(order))]]
        side = _side(placed, alone=len(self.objects) == 1)
        if side and rng.random() < 0.6:
            text += f", {NAMES[placed.name]} {side}"
        return text

    def _background(self) -> str:
        names = [COLOUR_NAMES[c] for c in self.colours]
        if self.kind == "plain":
            return f"on {_article(names[0])} {names[0]} background"
        if self.kind == "fading":
            return f"on a background fading from {names[0]} to {names[1]}"
        return f"on {names[1]} ground under {_article(names[0])} {names[0]} sky"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _side(placed: Placed, alone: bool) -> str:
    """Where an object stands, in words, if it stands clearly off the middle."""
    across, down = placed.x - 0.5, placed.y - 0.5
    if alone and abs(across) < 0.08 and abs(down) < 0.08:
        return "in the middle"
    if max(abs(across), abs(down)) < 0.12:
        return ""
    if abs(across) >= abs(down):
        return "on the left" if across < 0 else "on the right"
    return "at the top" if down < 0 else "at the bottom"


def draw_scene(rng: np.random.Generator, mix: tuple[float, ...] = EVEN) -> Scene:
    """A random scene: objects apart, all inside the picture; ``mix`` is the share of scenes with one, two, three."""
    count = int(rng.choice([1, 2, 3], p=mix))
    placed: list[Placed] = []
    while len(placed) < count:
        placed = _place(rng, rng.choice(len(NAMES), count, replace=False), _EDGES[count])
    kind = KINDS[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
    colours = rng.choice(len(COLOUR_NAMES), 1 if kind == "plain" else 2, replace=False)
    return Scene(tuple(placed), kind, tuple(int(c) for c in colours))


def described(rng: np.random.Generator, prompt: str) -> Scene:
    """A random scene that a prompt describes, which says nothing of places.

    Raises:
        ValueError: the prompt is no caption of such scenes.
    """
    names, kind, colours = _parsed(prompt)
    wanted, placed = np.array([NAMES.index(name) for name in names]), []
    while len(placed) < len(wanted):
        placed = _place(rng, wanted, _EDGES[len(wanted)])
    return Scene(tuple(placed), kind, tuple(COLOUR_NAMES.index(colour) for colour in colours))


def _parsed(prompt: str) -> tuple[list[str], str, list[str]]:
    """The objects, the kind of background and its colours that a prompt names."""
    for kind, words in _BACKGROUNDS.items():
        found = re.fullmatch(f"(?P<things>.+?){words}", prompt)
        if found is not None:
            names = [re.sub("^an? ", "", thing) for thing in re.split(", | and ", found["things"])]
            colours = [found[key] for key in ("first", "second") if key in found.groupdict()]
            if {*names} <= {*NAMES} and {*colours} <= {*COLOUR_NAMES} and len({*names}) == len(names) <= len(_EDGES):
                return names, kind, colours
    raise ValueError(f"{prompt!r} is no caption of one to three objects of these scenes, without places.")


def _place(rng: np.random.Generator, names: np.ndarray, edges: tuple[int, ...]) -> list[Placed]:
    """Each object in turn where it meets none before it; fewer than asked for if one finds no place."""
    placed: list[Placed] = []
    for name in names:
        for _ in range(20):
            edge = int(rng.choice(edges))
            x, y = (rng.integers(0, CELLS - edge + 1, 2) + edge / 2) / CELLS
            size = edge / CELLS
            if all(max(abs(x - p.x), abs(y - p.y)) >= (size + p.size) / 2 - 1e-9 for p in placed):
                placed.append(Placed(int(name), float(x), float(y), size))
                break
    return placed


class Painter:
    """Draws scenes at one picture size; each emoji is scaled once a size, by area."""

    def __init__(self, size: int, font: Path = FONT) -> None:
        if not font.is_file():
            raise ValueError(f"There is no font {font}: install Debian's fonts-noto-color-emoji, or give --font.")
        self.size = size
        face = ImageFont.truetype(str(font), BITMAP)
        self.bitmaps = [_bitmap(character, face) for character in OBJECTS.values()]
        self._scaled: dict[tuple[int, int], np.ndarray] = {}

    def _emoji(self, name: int, edge: int) -> np.ndarray:
        """RGBA [edge, edge, 4], 0 to 1, colour already multiplied by alpha."""
        key = (name, edge)
        if key not in self._scaled:
            small = self.bitmaps[name].resize((edge, edge), Image.Resampling.BOX)  # Pillow weights colour by alpha
            values = np.asarray(small, dtype=np.float32) / 255
            values[..., :3] *= values[..., 3:]
            self._scaled[key] = values
        return self._scaled[key]

    def paint(self, scene: Scene) -> np.ndarray:
        """uint8 [H, W, 3]."""
        canvas = self.background(scene)
        for placed in scene.objects:
            emoji, where = self._emoji(placed.name, self._edge(placed)), self._where(placed)
            canvas[where] *= 1 - emoji[..., 3:]
            canvas[where] += emoji[..., :3]
        return (canvas * 255).round().clip(0, 255).astype(np.uint8)

    def cover(self, placed: Placed) -> np.ndarray:
        """How much of each pixel an object covers, [H, W], 0 to 1."""
        canvas = np.zeros((self.size, self.size), np.float32)
        canvas[self._where(placed)] = self._emoji(placed.name, self._edge(placed))[..., 3]
        return canvas

    def _edge(self, placed: Placed) -> int:
        return round(placed.size * self.size)

    def _where(self, placed: Placed) -> tuple[slice, slice]:
        edge = self._edge(placed)
        top, left = (round(centre * self.size - edge / 2) for centre in (placed.y, placed.x))
        return slice(top, top + edge), slice(left, left + edge)

    def background(self, scene: Scene) -> np.ndarray:
        colours = [np.array(COLOURS[COLOUR_NAMES[c]], np.float32) / 255 for c in scene.colours]
        canvas = np.empty((self.size, self.size, 3), np.float32)
        if scene.kind == "plain":
            canvas[:] = colours[0]
        elif scene.kind == "fading":
            share = np.linspace(0, 1, self.size, dtype=np.float32)[:, None, None]
            canvas[:] = (1 - share) * colours[0] + share * colours[1]
        else:
            horizon = round(7 / CELLS * self.size)
            canvas[:horizon], canvas[horizon:] = colours
        return canvas


def _bitmap(character: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    """The emoji cut to its ink, centred in a square, RGBA."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), character, font=face, embedded_color=True)
    box = canvas.getbbox()
    assert box is not None, f"the font draws nothing for {character}"
    ink = canvas.crop(box)
    edge = max(ink.size)
    square = Image.new("RGBA", (edge, edge))
    square.paste(ink, ((edge - ink.width) // 2, (edge - ink.height) // 2))
    return square


def scenes(
    painter: Painter, count: int, seed: int, mix: tuple[float, ...] = EVEN
) -> Iterator[tuple[np.ndarray, str, Scene]]:
    """`count` pictures [H, W, 3] with caption and factors; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        scene = draw_scene(rng, mix)
        yield painter.paint(scene), scene.caption(rng), scene


def pictures(painter: Painter, count: int, seed: int) -> np.ndarray:
    """uint8 [count, H, W, 3]."""
    return np.stack([picture for picture, _, _ in scenes(painter, count, seed)])


def pictures_of(painter: Painter, prompts: Sequence[str], count: int, seed: int) -> np.ndarray:
    """uint8 [count, H, W, 3], of scenes that the prompts describe, in turn."""
    rng = np.random.default_rng(seed)
    return np.stack([painter.paint(described(rng, prompts[i % len(prompts)])) for i in range(count)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--prompt", action="append", help="paint scenes that it describes, as images of an .npz")
    args = parser.parse_args()
    check_integers(vars(args), count=(1, MOST_ITEMS), size=(8, 4096), seed=(0, SEEDS - 1))
    if args.prompt and args.out.suffix != ".npz":
        raise ValueError(f"With --prompt, images go to an .npz; got --out {args.out}.")
    check_targets(args.out)
    painter = Painter(args.size, args.font)
    if args.prompt:
        images = pictures_of(painter, args.prompt, args.count, args.seed)
        with replacing(args.out) as temporary, temporary.open("wb") as file:
            np.savez(file, images=images)
        return
    columns = max(1, round(args.count**0.5))
    rows = -(-args.count // columns)
    sheet = Image.new("RGB", (columns * (args.size + 2), rows * (args.size + 2)), "white")
    for i, (picture, caption, _) in enumerate(scenes(painter, args.count, args.seed)):
        place = (i % columns * (args.size + 2), i // columns * (args.size + 2))
        sheet.paste(Image.fromarray(picture), place)
        print(caption)
    sheet.save(args.out)


if __name__ == "__main__":
    with in_a_sentence("scenes.py"):
        main()
