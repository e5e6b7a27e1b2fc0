"""Draw one pedestrian, walking, seen from some side and height, on a transparent canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw

from siamese_search.datasets.synthetic.people import Colour, Person

#: The drawing canvas (width, height): several times the final size, which is what smooths the edges.
CANVAS = (256, 512)

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Pose:
    """How a person stands before the camera.

    yaw: radians; 0 faces the camera, π/2 walks to the right, π shows the back. phase: of the gait, radians.
    height: of the person in fractions of the canvas; feet: (x, y) of the ground point in fractions of the
    canvas. elevation: 0 (eye level) to 1 (steep): looking down shortens the legs and enlarges the head.
    """

    yaw: float
    phase: float
    height: float
    feet: tuple[float, float]
    elevation: float


def draw_figure(person: Person, pose: Pose) -> Image.Image:
    """The person as RGBA, ``CANVAS`` in size, without light and shadow."""
    figure = _Figure(person, pose)
    figure.draw()
    return figure.image


class _Figure:
    """A drawing in body coordinates: x in body heights from the centre line, y from 0 (feet) to 1 (crown)."""

    def __init__(self, person: Person, pose: Pose) -> None:
        self.image = Image.new("RGBA", CANVAS, (0, 0, 0, 0))
        self.ink = ImageDraw.Draw(self.image)
        self.person, self.pose = person, pose
        self.facing = math.cos(pose.yaw)  # 1 front, 0 side, -1 back
        self.side = math.sin(pose.yaw)  # 1 walks right, -1 walks left
        self.front = abs(self.facing)
        self.unit = pose.height * CANVAS[1] * person.stature
        self.step = math.sin(pose.phase)
        girth = person.girth
        self.shoulder = (0.078 + 0.045 * self.front) * (0.6 + 0.4 * girth)
        self.waist = (0.068 + 0.018 * self.front) * girth
        self.hip = (0.072 + 0.02 * self.front) * girth
        self.bob = 0.008 * abs(math.cos(pose.phase))

    def at(self, x: float, y: float) -> Point:
        """Body coordinates to canvas pixels."""
        seen = max(y, 0.0) ** (1.0 + 0.3 * self.pose.elevation) if y > 0 else y
        feet_x, feet_y = self.pose.feet
        return feet_x * CANVAS[0] + x * self.unit, feet_y * CANVAS[1] - seen * self.unit

    def limb(self, points: list[Point], widths: list[float], colour: Colour) -> None:
        """A chain of tapered, round-jointed segments; ``widths`` are diameters at the points."""
        where = [self.at(*point) for point in points]
        radii = [width * self.unit / 2 for width in widths]
        for (x, y), r in zip(where, radii):
            self.ink.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        for (x0, y0), (x1, y1), r0, r1 in zip(where, where[1:], radii, radii[1:]):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = -(y1 - y0) / length, (x1 - x0) / length
            corners = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
            corners += [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
            self.ink.polygon(corners, fill=colour)

    def shape(self, points: list[Point], colour: Colour) -> None:
        self.ink.polygon([self.at(*point) for point in points], fill=colour)

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, *, arc: tuple[int, int] | None = None
    ) -> None:
        cx, cy = self.at(x, y)
        box = (cx - rx * self.unit, cy - ry * self.unit, cx + rx * self.unit, cy + ry * self.unit)
        if arc is None:
            self.ink.ellipse(box, fill=colour)
        else:
            self.ink.chord(box, *arc, fill=colour)

    def draw(self) -> None:
        """The body, far to near."""
        near, far = (1, -1) if self.side >= 0 else (-1, 1)
        bag_in_front = self.person.bag == "backpack" and self.facing < -0.35
        self.arm(far, 0.72 if self.front < 0.7 else 1.0)
        if self.person.bag == "backpack" and not bag_in_front:
            self.backpack()
        if self.person.hair_style == "long" and self.facing > -0.35:
            self.long_hair()
        self.leg(far, 0.74 if self.front < 0.7 else 0.95)
        self.leg(near, 1.0)
        self.torso()
        if self.person.bag == "backpack" and self.facing > -0.2:
            self.straps()
        self.head()
        if bag_in_front:
            self.backpack()
        if self.person.bag == "messenger":
            self.messenger()
        self.arm(near, 0.92)
        if self.person.bag == "handbag":
            self.handbag(near)

    def leg(self, k: int, light: float) -> None:
        person = self.person
        swing = k * self.step * person.stride
        lift = max(0.0, -k * math.cos(self.pose.phase)) * 0.05
        hip = (k * self.hip * 0.5 * self.facing, 0.5 + self.bob)
        # From the front a stride shows as one foot lower in the picture than the other.
        foot = (hip[0] * 0.9 + swing * self.side, 0.035 + lift - 0.12 * swing * self.facing)
        bend = 0.03 + 0.5 * lift
        knee = ((hip[0] + foot[0]) / 2 + bend * self.side, (hip[1] + foot[1]) / 2)
        cloth, skin = _shade(person.bottom_colour, light), _shade(person.skin, light)
        thick = 0.6 + 0.4 * person.girth
        toe = (foot[0] + 0.05 * self.side, foot[1] - 0.018 - 0.012 * max(0.0, self.facing))
        if person.bottom in ("skirt", "shorts"):
            self.limb([knee, foot], [0.064 * thick, 0.04 * thick], skin)
            self.limb([hip, knee], [0.1 * thick, 0.078 * thick], skin if person.bottom == "skirt" else cloth)
        else:
            self.limb([hip, knee, foot], [0.1 * thick, 0.078 * thick, 0.056 * thick], cloth)
        self.limb([(foot[0], foot[1] - 0.012), toe], [0.046, 0.036], _shade(person.shoes, light))

    def arm(self, k: int, light: float) -> None:
        person = self.person
        swing = -k * self.step * person.arm_swing
        root = (k * (self.shoulder - 0.012) * (self.facing if self.front > 0.3 else 0.3 * self.facing), 0.8 + self.bob)
        spread = k * 0.022 * self.facing * person.girth
        elbow = (root[0] + spread + 0.6 * swing * self.side, 0.645 + self.bob)
        hand = (root[0] + spread * 1.2 + (1.25 * swing + 0.03) * self.side, 0.5 + 0.25 * abs(swing) + self.bob)
        sleeve, skin = _shade(person.top_colour, light * 0.94), _shade(person.skin, light)
        thick = 0.6 + 0.4 * person.girth
        self.oval(hand[0], hand[1] - 0.012, 0.02, 0.024, skin)
        if person.top == "tshirt":
            half = ((root[0] + elbow[0]) / 2, (root[1] + elbow[1]) / 2)
            self.limb([half, elbow, hand], [0.05 * thick, 0.044 * thick, 0.034], skin)
            self.limb([root, half], [0.068 * thick, 0.064 * thick], sleeve)
        else:
            bulk = 1.18 if person.top in ("jacket", "coat", "hoodie") else 1.0
            self.limb([root, elbow, hand], [0.066 * thick * bulk, 0.056 * thick * bulk, 0.042 * bulk], sleeve)
            if person.pattern == "band":  # a stripe around the sleeve
                half = ((elbow[0] + hand[0]) / 2, (elbow[1] + hand[1]) / 2)
                self.limb([elbow, half], [0.058 * bulk, 0.05 * bulk], _shade(person.accent, light))

    def torso(self) -> None:
        person, bob = self.person, self.bob
        if person.bottom == "skirt":
            flare = self.hip * (1.15 if self.person.top == "coat" else 1.35) + 0.012
            self.shape([(-self.hip, 0.54), (self.hip, 0.54), (flare, 0.3), (-flare, 0.3)], person.bottom_colour)
        elif person.bottom == "shorts":
            self.limb([(0, 0.52), (0, 0.47)], [1.9 * self.hip, 1.8 * self.hip], person.bottom_colour)
        hem = {"coat": 0.3, "jacket": 0.47, "hoodie": 0.49}.get(person.top, 0.5)
        low = self.hip * (1.22 if person.top == "coat" else 1.04)
        s, w = self.shoulder, self.waist
        side = [(s, 0.81), (s * 0.98, 0.74), (w, 0.62), (self.hip, 0.53), (low, hem)]
        outline = [(-s * 0.45, 0.855), (s * 0.45, 0.855), *side, *((-x, y) for x, y in reversed(side))]
        self.limb([(0, 0.9), (0, 0.83)], [0.05, 0.056], _shade(person.skin, 0.85))
        mask = Image.new("L", CANVAS, 0)
        ImageDraw.Draw(mask).polygon([self.at(x, y + bob) for x, y in outline], fill=255)
        self.image.paste(self.cloth(hem), mask=mask)
        if person.top == "hoodie":
            self.oval(0, 0.845 + bob, 0.062, 0.026, _shade(person.top_colour, 0.8))
        if person.top in ("shirt", "tshirt") and self.facing > 0.4:
            self.oval(0.02 * self.side, 0.852 + bob, 0.03, 0.018, _shade(person.skin, 0.92))

    def cloth(self, hem: float) -> Image.Image:
        """The torso's fabric, canvas-sized and opaque: colour, pattern, opening."""
        person = self.person
        fabric = Image.new("RGB", CANVAS, person.top_colour)
        ink = ImageDraw.Draw(fabric)

        def box(x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
            (left, top), (right, bottom) = (self.at(min(x0, x1), max(y0, y1)), self.at(max(x0, x1), min(y0, y1)))
            ink.rectangle((left, top, right, bottom), fill=colour)

        shift = 0.5 * self.shoulder * self.side  # the chest's middle turns with the body
        if person.pattern in ("stripes", "check"):
            for row in range(12):
                y = 0.84 - 0.046 * row
                box(-0.3, y, 0.3, y - 0.02, person.accent)
        if person.pattern == "check":
            for column in range(-5, 6):
                box(0.048 * column + shift, 0.9, 0.048 * column + shift + 0.016, 0.2, _shade(person.accent, 0.8))
        if person.pattern == "yoke":
            box(-0.3, 0.9, 0.3, 0.74, person.accent)
        if person.pattern == "band":
            box(-0.3, 0.71, 0.3, 0.655, person.accent)
        if person.pattern == "logo" and self.front > 0.3:
            wide = 0.045 * self.front
            box(shift - wide, 0.76, shift + wide, 0.675, person.accent)
        if person.top in ("jacket", "coat") and self.facing > 0.15:
            wide = 0.034 * self.facing + 0.004
            box(shift - wide, 0.9, shift + wide, hem + 0.04, person.inner)
            box(shift - wide - 0.006, 0.9, shift - wide, hem, _shade(person.top_colour, 0.7))
        if person.top in ("jacket", "hoodie"):
            box(-0.3, hem + 0.02, 0.3, hem - 0.02, _shade(person.top_colour, 0.75))
        return fabric

    def head(self) -> None:
        person, bob = self.person, self.bob
        big = 1.0 + 0.1 * self.pose.elevation
        rx, ry = 0.047 * big * (0.93 + 0.07 * self.front), 0.066 * big
        x, y = 0.014 * self.side, 0.925 + bob
        self.oval(x, y, rx, ry, person.skin)
        if self.facing > -0.3:
            look = x + 0.55 * rx * self.side
            if person.beard:
                self.oval(look * 0.8, y - 0.042 * big, rx * 0.82, 0.026 * big, person.hair)
            eye = _shade(person.skin, 0.45)
            for k in (-1, 1):
                if self.facing > 0.3 or k * self.side > 0:
                    self.oval(look + k * 0.017 * max(self.facing, 0.0), y + 0.006, 0.0065, 0.005, eye)
            self.oval(look, y - 0.034 * big, 0.012, 0.004, _shade(person.skin, 0.68))
        self.hair(x, y, rx, ry)
        if person.hat != "none":
            top = y + 0.014
            self.oval(x, top, rx * 1.16, ry * 0.9, person.hat_colour, arc=(180, 360))
            if person.hat == "cap" and self.facing > -0.5:
                self.limb([(x, top), (x + 0.062 * self.side, top - 0.006)], [0.016, 0.014], person.hat_colour)
                if self.facing > 0.4:
                    self.oval(x, top, rx * 1.1, 0.014, _shade(person.hat_colour, 0.75))
            elif person.hat == "beanie":
                self.limb([(x - rx, top), (x + rx, top)], [0.022, 0.022], _shade(person.hat_colour, 0.8))

    def hair(self, x: float, y: float, rx: float, ry: float) -> None:
        person, style = self.person, self.person.hair_style
        if style == "bald":
            return
        back = x - 0.62 * rx * self.side
        if self.facing < -0.35:
            self.oval(x, y + 0.008, rx * 1.1, ry * 1.02, person.hair)
            if style == "long":
                self.long_hair()
        elif self.front < 0.6:
            self.oval(x, y + 0.022, rx * 1.1, ry * 0.82, person.hair, arc=(178, 362))
            self.oval(back, y + 0.004, rx * 0.66, ry * 0.86, person.hair)
        else:
            self.oval(x, y + 0.03, rx * 1.1, ry * 0.74, person.hair, arc=(175, 365))
        if style == "bun":
            self.oval(x - 0.9 * rx * self.side, y + 0.062, 0.026, 0.026, person.hair)
        if style == "ponytail" and self.facing < 0.35:
            tail = x - 1.15 * rx * self.side
            self.limb([(tail, y + 0.02), (tail - 0.012 * self.side, y - 0.1)], [0.03, 0.016], person.hair)

    def long_hair(self) -> None:
        x = 0.014 * self.side - 0.022 * self.side
        self.limb([(x, 0.945 + self.bob), (x - 0.01 * self.side, 0.79 + self.bob)], [0.108, 0.098], self.person.hair)

    def backpack(self) -> None:
        colour = self.person.bag_colour
        x = -self.shoulder * 1.02 * self.side
        if self.facing < -0.35:
            self.limb([(x * 0.6, 0.755), (x * 0.6, 0.63)], [0.15, 0.16], colour)
            self.limb([(x * 0.6, 0.645), (x * 0.6, 0.62)], [0.1, 0.1], _shade(colour, 0.72))
        elif self.front < 0.8:
            self.limb([(x, 0.76), (x * 1.06, 0.63)], [0.095, 0.11], colour)

    def straps(self) -> None:
        colour = _shade(self.person.bag_colour, 0.9)
        for k in (-1, 1):
            x = k * 0.62 * self.shoulder * max(self.facing, 0.3) + 0.02 * self.side
            self.limb([(x, 0.845), (x * 1.1, 0.76), (x * 1.3, 0.69)], [0.03, 0.028, 0.02], colour)

    def messenger(self) -> None:
        colour = self.person.bag_colour
        k = 1 if self.facing >= 0 else -1
        high, low = (-k * 0.6 * self.shoulder, 0.84), (k * self.hip * 1.0, 0.55)
        self.limb([high, low], [0.016, 0.016], _shade(colour, 0.8))
        x, wide = low[0], 0.06
        self.shape([(x - wide, 0.565), (x + wide, 0.565), (x + wide * 0.9, 0.475), (x - wide * 0.9, 0.475)], colour)
        self.shape([(x - wide, 0.57), (x + wide, 0.57), (x + wide, 0.535), (x - wide, 0.535)], _shade(colour, 0.8))

    def handbag(self, k: int) -> None:
        colour = self.person.bag_colour
        x = k * (self.shoulder + 0.02) * self.facing + 0.04 * self.side
        wide = 0.05 * max(self.front, 0.5) + 0.012
        self.shape([(x - 0.03, 0.435), (x, 0.5), (x + 0.03, 0.435)], _shade(colour, 0.6))
        self.shape([(x - wide * 0.85, 0.44), (x + wide * 0.85, 0.44), (x + wide, 0.35), (x - wide, 0.35)], colour)
        self.shape([(x - wide, 0.37), (x + wide, 0.37), (x + wide, 0.35), (x - wide, 0.35)], _shade(colour, 0.75))


def _shade(colour: Colour, light: float) -> Colour:
    r, g, b = (min(255, int(c * light)) for c in colour)
    return r, g, b
