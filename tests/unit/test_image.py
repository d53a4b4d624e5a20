"""`image.resize` on real photographs and on files made to do harm."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from services.tasks import picture
from services.tasks.files import FileStore
from services.tasks.image import resize
from services.tasks.picture import Box, fit
from services.tasks.samples import SAMPLES, draw_samples
from taskq_core.errors import ConfigError, NotFound, Permanent, TooLarge


def _inside(package: str, *steps: str) -> Path:
    """A file that the wheel of a package carries."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*steps)


HOPPER = _inside("matplotlib", "mpl-data", "sample_data", "grace_hopper.jpg")
ROCKET = _inside("skimage", "data", "rocket.jpg")
CHELSEA = _inside("skimage", "data", "chelsea.png")
CAMERA = _inside("skimage", "data", "camera.png")
HUBBLE = _inside("skimage", "data", "hubble_deep_field.jpg")
LOGO = _inside("skimage", "data", "logo.png")
ANIMATION = _inside("skimage", "data", "no_time_for_that_tiny.gif")
TIFF = _inside("skimage", "data", "multipage.tif")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TASKQ_HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    return tmp_path


def _give(home: Path, content: bytes, name: str = "given") -> str:
    (home / "images" / name).write_bytes(content)
    return name


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _output(home: Path, made: Any, number: int = 0) -> Image.Image:
    output = made["outputs"][number]
    content = (home / "files" / output["sha256"][:2] / output["sha256"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == output["sha256"]
    assert output["path"] == f"files/{output['sha256']}"
    assert output["bytes"] == len(content)
    image = Image.open(BytesIO(content))
    image.load()
    assert image.size == (output["width"], output["height"])
    assert image.format == output["format"]
    return image


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, 0 to 255."""
    pixels = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return sum(ImageStat.Stat(pixels).mean) / 3


# --- photographs


@pytest.mark.parametrize(
    "photo", [HOPPER, ROCKET, CHELSEA, CAMERA, HUBBLE, LOGO, ANIMATION], ids=lambda path: path.name
)
def test_a_real_picture_fits_into_each_box(home: Path, photo: Path) -> None:
    source = _give(home, photo.read_bytes(), photo.name)
    with Image.open(photo) as original:
        width, height = original.size
        kind = original.format
        looks = original.convert("RGBA").resize((48, 48))
    made = resize(source, [(200, 200), (64, 1000)])
    assert made["source"] == {
        "width": width,
        "height": height,
        "format": kind,
        "bytes": photo.stat().st_size,
    }
    for number, (box_width, box_height) in enumerate([(200, 200), (64, 1000)]):
        small = _output(home, made, number)
        assert small.width <= min(box_width, width)
        assert small.height <= min(box_height, height)
        assert abs(small.width * height - small.height * width) <= max(width, height)
    assert _difference(_output(home, made).convert("RGBA").resize((48, 48)), looks) < 8


def test_it_never_enlarges(home: Path) -> None:
    source = _give(home, HOPPER.read_bytes())
    made = resize(source, [(5000, 5000)])
    assert _output(home, made).size == (made["source"]["width"], made["source"]["height"])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "jpeg", "webp"])
def test_any_format_becomes_any_other(home: Path, format: Any) -> None:
    for photo in (HOPPER, LOGO, ANIMATION):
        made = resize(_give(home, photo.read_bytes()), [(50, 50)], format)
        assert _output(home, made).format == format.upper()


def test_the_same_box_twice_is_made_once(home: Path) -> None:
    made = resize(_give(home, HOPPER.read_bytes()), [(40, 40), (20, 20), (40, 40)])
    assert made["outputs"][0] == made["outputs"][2]
    assert made["outputs"][0] != made["outputs"][1]


def test_an_uploaded_picture_is_a_source(home: Path) -> None:
    sha256 = FileStore(home / "files").put(ROCKET.read_bytes())
    made = resize(f"upload:{sha256}", [(100, 100)])
    assert made["source"]["bytes"] == ROCKET.stat().st_size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_comes_out_upright(home: Path, orientation: int, format: str) -> None:
    # Four quarters of different colours: any wrong turn or flip shows.
    upright = Image.new("RGB", (160, 96))
    for corner, colour in (((0, 0), "red"), ((80, 0), "lime"), ((0, 48), "blue"), ((80, 48), "white")):
        upright.paste(colour, (*corner, corner[0] + 80, corner[1] + 48))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the Transpose that lays it as the camera did
    lying = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = _give(home, _saved(lying, format, exif=exif.tobytes(), quality=95))
    made = resize(source, [(80, 80)])
    assert (made["source"]["width"], made["source"]["height"]) == (160, 96)
    small = _output(home, made)
    assert small.size == (80, 48)
    assert _difference(small, upright.resize((80, 48))) < 12
    assert 0x0112 not in small.getexif()


def test_no_exif_is_passed_on(home: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"
    source = _give(home, _saved(Image.new("RGB", (50, 50)), "JPEG", exif=exif.tobytes()))
    assert not dict(_output(home, resize(source, [(20, 20)])).getexif())


def test_broken_exif_does_not_spoil_a_good_picture(home: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + os.urandom(40)
    with Image.open(HOPPER) as hopper:
        made = resize(_give(home, _saved(hopper, "JPEG", exif=exif)), [(40, 40)])
    assert made["outputs"][0]["height"] == 40


def test_transparency_turns_white_in_a_jpeg_and_stays_elsewhere(home: Path) -> None:
    source = _give(home, _saved(Image.new("RGBA", (40, 40), (200, 0, 0, 0)), "PNG"))
    flat = _output(home, resize(source, [(20, 20)], "JPEG"))
    assert flat.getpixel((10, 10)) == (255, 255, 255)
    for kept_in in ("PNG", "WEBP", "GIF"):
        kept = _output(home, resize(source, [(20, 20)], kept_in)).convert("RGBA").getpixel((10, 10))
        assert isinstance(kept, tuple)
        assert kept[3] == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_pixel_mode_keeps_its_grey(home: Path, mode: str) -> None:
    grey = Image.new("L", (64, 64), 255 if mode == "1" else 128)
    if mode == "I;16":
        image = Image.frombytes("I;16", (64, 64), struct.pack("<H", 128 * 257) * 64 * 64)
    else:
        image = grey.convert(mode)
    source = _give(home, _saved(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert _difference(_output(home, resize(source, [(16, 16)])), grey.resize((16, 16))) < 3


def test_a_colour_profile_stays_with_its_colours(home: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = _give(home, _saved(Image.new("RGB", (40, 40)), "JPEG", icc_profile=profile))
    assert _output(home, resize(rgb, [(20, 20)])).info["icc_profile"] == profile
    cmyk = _give(home, _saved(Image.new("CMYK", (40, 40)), "JPEG", icc_profile=profile))
    assert "icc_profile" not in _output(home, resize(cmyk, [(20, 20)])).info


def test_a_jpeg_with_more_pictures_behind_is_read_as_a_jpeg(home: Path) -> None:
    front, behind = Image.new("RGB", (300, 200)), Image.new("RGB", (9000, 9000))
    source = _give(home, _saved(front, "MPO", save_all=True, append_images=[behind]))
    made = resize(source, [(64, 64)])
    assert made["source"]["format"] == "JPEG"
    assert made["source"]["width"] == 300


# --- files that do harm


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _gif_with_a_large_frame() -> bytes:
    """A screen of 10 × 10 pixels, and a frame of 65,000 × 65,000 on it."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_000, 65_000, 0) + b"\x02\x02\x4c\x01\0"
    return screen + frame + b";"


@pytest.mark.parametrize(
    "size", [(64_000, 64_000), (10_000, 10_000), (7_000, 6_000), (2**31 - 1, 1), (40_000_001, 1)]
)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    home: Path, size: tuple[int, int]
) -> None:
    with pytest.raises(Permanent, match="pixels"):
        resize(_give(home, _png_bomb(*size)), [(10, 10)])


def test_a_frame_larger_than_its_screen_is_refused(home: Path) -> None:
    with pytest.raises(Permanent, match="pixels"):
        resize(_give(home, _gif_with_a_large_frame()), [(10, 10)])


def test_of_many_frames_only_the_first_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("P", (8, 8), number % 256) for number in range(2000)]
    source = _give(home, _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))

    def seek(*_: object) -> None:
        raise AssertionError("no other frame is wanted")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.GifImagePlugin.GifImageFile.seek", seek)
        made = resize(source, [(4, 4)])
    assert getattr(_output(home, made), "n_frames", 1) == 1


def test_a_truncated_picture_is_refused_at_any_length(home: Path) -> None:
    with Image.open(CAMERA) as camera:
        gif, webp = _saved(camera, "GIF"), _saved(camera, "WEBP")
    for whole in (HOPPER.read_bytes(), CHELSEA.read_bytes(), gif, webp):
        for part in range(1, 10):
            source = _give(home, whole[: len(whole) * part // 10])
            with pytest.raises(Permanent):
                resize(source, [(400, 400)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"8BPS\0\1" + bytes(40),
        b"SIMPLE  =                    T" + b" " * 2850,
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(30),
        TIFF.read_bytes(),
    ],
    ids=["empty", "gif", "jpeg", "svg", "eps", "psd", "fits", "png", "webp", "tiff"],
)
def test_what_is_no_picture_of_ours_is_refused_with_a_reason(home: Path, content: bytes) -> None:
    with pytest.raises(Permanent, match=r"given: it is (not a JPEG|broken)") as caught:
        resize(_give(home, content), [(10, 10)])
    assert " at 0x" not in str(caught.value)  # an address in it would make each failure look new


def test_flipped_bytes_never_raise_anything_else(home: Path) -> None:
    from random import Random

    chance = Random(1)
    for photo in (HOPPER, LOGO, ANIMATION):
        whole = photo.read_bytes()
        for _ in range(40):
            broken = bytearray(whole)
            for _ in range(8):
                broken[chance.randrange(min(len(whole), 2000))] = chance.randrange(256)
            try:
                resize(_give(home, bytes(broken)), [(20, 20)])
            except Permanent:
                continue


# --- where it reads


@pytest.mark.parametrize(
    "source",
    ["../token", "/etc/passwd", "a/../../token", "./given", "a//b", "", "a\\..\\b", "a\0b", "..", "up/.."],
)
def test_a_path_that_leaves_the_folder_is_refused(home: Path, source: str) -> None:
    (home / "token").write_text("secret")
    _give(home, HOPPER.read_bytes())
    with pytest.raises(Permanent, match="source"):
        resize(source, [(10, 10)])


def test_a_symbolic_link_is_not_followed(home: Path) -> None:
    outside = home / "outside"
    outside.mkdir()
    (outside / "cat.jpg").write_bytes(HOPPER.read_bytes())
    (home / "images" / "link.jpg").symlink_to(outside / "cat.jpg")
    (home / "images" / "folder").symlink_to(outside)
    for source in ("link.jpg", "folder/cat.jpg"):
        with pytest.raises(Permanent, match="no such picture"):
            resize(source, [(10, 10)])


def test_a_picture_in_a_folder_is_found(home: Path) -> None:
    (home / "images" / "a" / "b").mkdir(parents=True)
    (home / "images" / "a" / "b" / "cat.jpg").write_bytes(HOPPER.read_bytes())
    assert resize("a/b/cat.jpg", [(10, 10)])["outputs"]


def test_pipes_folders_and_absent_files_are_refused_at_once(home: Path) -> None:
    os.mkfifo(home / "images" / "pipe")
    (home / "images" / "folder").mkdir()
    for source in ("pipe", "folder", "absent.jpg", "upload:" + "0" * 64, "upload:../../token"):
        with pytest.raises(Permanent):
            resize(source, [(10, 10)])


def test_a_source_beyond_the_limit_is_not_read(home: Path) -> None:
    with (home / "images" / "huge.jpg").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(Permanent, match="larger than 64 MiB"):
        resize("huge.jpg", [(10, 10)])


def test_without_a_data_folder_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TASKQ_HOME", raising=False)
    with pytest.raises(ConfigError, match="TASKQ_HOME"):
        resize("harbour.jpg", [(10, 10)])


# --- sizes


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((4000, 3000), (400, 400), (400, 300)),
        ((3000, 4000), (400, 400), (300, 400)),
        ((10_000, 1), (100, 100), (100, 1)),
        ((1, 10_000), (100, 100), (1, 100)),
        ((100, 100), (100, 100), (100, 100)),
        ((50, 20), (100, 100), (50, 20)),
        ((7, 5), (3, 3), (3, 2)),
    ],
)
def test_fit(size: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(Box(*size), Box(*box)) == expected


def test_the_limits_are_those_of_the_documentation() -> None:
    assert picture.MAX_PIXELS == 40_000_000
    assert picture.FORMATS == ("JPEG", "PNG", "WEBP", "GIF")


# --- the store


def test_the_store_keeps_content_once_under_its_digest(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    sha256 = store.put(b"abc")
    assert sha256 == hashlib.sha256(b"abc").hexdigest()
    assert store.put(BytesIO(b"abc")) == sha256
    assert store.path(sha256) == tmp_path / "files" / sha256[:2] / sha256
    with store.open(sha256) as file:
        assert file.read() == b"abc"
    assert store.size(sha256) == 3
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == [sha256]


def test_what_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    with pytest.raises(TooLarge):
        store.put(b"x" * 11, limit=10)
    with store.incoming() as incoming:
        incoming.write(b"half")
    assert not [path for path in store.root.rglob("*") if path.is_file()]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    store.put(b"abc")
    leftover = store.root / "incoming" / "old.part"
    leftover.write_bytes(b"half")
    assert store.remove_unfinished() == 0
    os.utime(leftover, (0, 0))
    assert store.remove_unfinished() == 1


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_only_a_digest_names_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        FileStore(tmp_path).open(name)


def test_the_store_follows_no_link(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    (tmp_path / "secret").write_bytes(b"secret")
    target = store.path("0" * 64)
    target.parent.mkdir(parents=True)
    target.symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        store.open("0" * 64)


# --- samples


def test_samples_are_drawn_once_and_can_be_resized(home: Path) -> None:
    images = home / "images"
    drawn = draw_samples(images)
    assert [path.name for path in drawn] == list(SAMPLES)
    assert next(iter(SAMPLES)) == "harbour.jpg"
    assert draw_samples(images) == []
    assert sorted(path.name for path in images.iterdir()) == sorted(SAMPLES)
    for name in SAMPLES:
        assert resize(name, [(64, 64)])["outputs"]


def test_a_picture_of_the_user_is_never_drawn_over(home: Path) -> None:
    _give(home, b"mine", "harbour.jpg")
    draw_samples(home / "images")
    assert (home / "images" / "harbour.jpg").read_bytes() == b"mine"


def test_samples_are_the_same_each_time(tmp_path: Path) -> None:
    draw_samples(tmp_path / "one")
    draw_samples(tmp_path / "two")
    for name in SAMPLES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
