"""Whatever people upload becomes the right pixels, or one clear refusal."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from muster.errors import BadImage, ClusterError, NotAnImage, TooLarge
from tests.worker.colours import encoded, picture, png
from worker.images import SMALL, TakesLong, to_encoded, to_pixels
from worker.models.preprocessing import FILTERS, Pixels
from worker.models.tensorflow_quietly import tf

WANTED = Pixels(height=8, width=4)
LIMIT = 1_000_000


def scene() -> Image.Image:
    """Red above, blue below, and a green left edge, so that every turn of it looks different."""
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:32, :, 0] = pixels[32:, :, 2] = 200
    pixels[:, :8, 1] = 200
    return Image.fromarray(pixels)


def pixels(data: bytes, wanted: Pixels = WANTED, limit: int = LIMIT) -> NDArray[Any]:
    return to_pixels(data, wanted, limit)


def as_tensorflow_sees(data: bytes) -> NDArray[Any]:
    decoded: NDArray[Any] = tf.io.decode_image(to_encoded(data, LIMIT), channels=3).numpy()
    return decoded


def turned(orientation: int, kind: str) -> bytes:
    """`scene` as a camera held otherwise stores it."""
    backwards = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = scene() if backwards is None else scene().transpose(backwards)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


PLAIN = encoded(scene())
VARIANTS = {
    "jpeg": encoded(scene(), "JPEG", quality=95, subsampling=0),
    "progressive jpeg": encoded(scene(), "JPEG", quality=95, subsampling=0, progressive=True),
    "cmyk jpeg": encoded(scene().convert("CMYK"), "JPEG", quality=95),
    "palette png": encoded(scene().quantize(16)),
    "palette gif": encoded(scene(), "GIF"),
    "bmp": encoded(scene(), "BMP"),
    "webp": encoded(scene(), "WEBP", lossless=True),
    "opaque png": encoded(scene().convert("RGBA")),
    **{f"jpeg turned {turn}": turned(turn, "JPEG") for turn in range(1, 9)},
    **{f"png turned {turn}": turned(turn, "PNG") for turn in range(1, 9)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_picture_looks_the_same_however_it_is_stored(name: str) -> None:
    assert np.abs(pixels(VARIANTS[name]) - pixels(PLAIN)).mean() < 6


@pytest.mark.parametrize("name", VARIANTS)
def test_tensorflow_sees_what_people_see(name: str) -> None:
    seen, plain = as_tensorflow_sees(VARIANTS[name]), np.asarray(scene())
    assert seen.shape == plain.shape
    assert np.abs(seen.astype(int) - plain).mean() < 6


def test_16_bit_gray_keeps_its_upper_bits() -> None:
    ramp = (np.arange(64 * 32).reshape(64, 32) * 32).astype(np.uint16)
    deep = encoded(Image.fromarray(ramp))
    shallow = encoded(Image.fromarray((ramp >> 8).astype(np.uint8)))
    assert np.array_equal(pixels(deep), pixels(shallow))
    assert np.array_equal(as_tensorflow_sees(deep), as_tensorflow_sees(shallow))


@pytest.mark.parametrize(
    "image",
    [
        picture((0, 0, 0, 0), mode="RGBA"),
        picture((0, 0), mode="LA"),
        picture((0, 0, 0, 0), mode="RGBA").quantize(2),
    ],
)
def test_what_is_transparent_is_white(image: Image.Image) -> None:
    assert pixels(encoded(image)).min() == 255
    assert as_tensorflow_sees(encoded(image)).min() == 255


def test_a_transparent_colour_of_a_plain_png_is_white() -> None:
    data = encoded(picture("red"), transparency=(255, 0, 0))
    assert pixels(data).min() == 255
    assert as_tensorflow_sees(data).min() == 255


def raw_png(depth: int, kind: int, row: bytes, transparent: bytes) -> bytes:
    """8 by 8 pixels, all rows alike, of a bit depth and colour type that Pillow does not write."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, kind, 0, 0, 0)),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress((b"\0" + row) * 8)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize(
    ("depth", "kind", "row", "same", "other"),
    [
        (1, 0, b"\0", b"\0\0", b"\0\1"),
        (2, 0, b"\x55\x55", b"\0\1", b"\0\2"),
        (4, 0, b"\x88" * 4, b"\0\x08", b"\0\x07"),
        (8, 0, b"\x88" * 8, b"\0\x88", b"\0\x08"),
        (16, 0, b"\x88\x01" * 8, b"\x88\x01", b"\x88\x02"),
        (8, 2, b"\xc8\0\1" * 8, b"\0\xc8\0\0\0\1", b"\0\xc8\0\0\0\2"),
        (16, 2, b"\xc8\1\0\0\1\0" * 8, b"\xc8\1\0\0\1\0", b"\xc9\1\0\0\1\0"),
    ],
)
def test_the_transparent_colour_of_a_png_counts_in_every_depth(
    depth: int, kind: int, row: bytes, same: bytes, other: bytes
) -> None:
    for see in (pixels, as_tensorflow_sees):
        assert see(raw_png(depth, kind, row, same)).min() == 255
        assert see(raw_png(depth, kind, row, other)).min() < 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("behind", [b"\0", b"x" * 100, bytes(200_000), b"PK\3\4" * 50_000])
def test_what_stands_behind_a_picture_does_not_matter(kind: str, behind: bytes) -> None:
    data = encoded(scene(), kind)
    assert np.array_equal(pixels(data + behind), pixels(data))
    seen, alone = as_tensorflow_sees(data + behind).astype(int), as_tensorflow_sees(data)
    assert np.abs(seen - alone).max() <= 3  # Pillow's and TensorFlow's decoders round differently


@pytest.mark.parametrize("missing", range(1, 13))
def test_a_png_without_its_whole_end_is_damaged_for_every_kind_of_model(missing: int) -> None:
    for see in (pixels, as_tensorflow_sees):
        with pytest.raises(BadImage, match="damaged or incomplete"):
            see(PLAIN[:-missing])


@pytest.mark.parametrize("part", [b"IHDR", b"IDAT", b"IEND"])
def test_a_png_with_a_wrong_checksum_is_damaged_for_every_kind_of_model(part: bytes) -> None:
    at = PLAIN.index(part) - 4
    (length,) = struct.unpack_from(">I", PLAIN, at)
    wrong = bytearray(PLAIN)
    wrong[at + 8 + length] ^= 1
    for see in (pixels, as_tensorflow_sees):
        with pytest.raises(BadImage, match="damaged or incomplete"):
            see(bytes(wrong))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("kind", [2, 6])
def test_a_png_that_ends_before_its_pixels_do_is_damaged_and_a_black_one_is_not(kind: int, interlaced: bool) -> None:
    def file(rows: bytes) -> bytes:
        parts = (b"IHDR", struct.pack(">IIBBBBB", 2, 3, 8, kind, 0, 0, interlaced)), (b"IDAT", zlib.compress(rows))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
            for name, part in (*parts, (b"IEND", b""))
        )

    pixel = {2: 3, 6: 4}[kind]
    size = 6 * pixel + (5 if interlaced else 3)  # of the seven passes four have pixels, one of them two rows
    assert pixels(file(bytes(size))).shape == (8, 4, 3)
    assert as_tensorflow_sees(file(bytes(size))).shape == (3, 2, 3)
    for see in (pixels, as_tensorflow_sees) if kind == 6 else (pixels,):
        with pytest.raises(BadImage, match="damaged or incomplete"):
            see(file(bytes(size - 1)))


def test_texts_that_unpack_to_megabytes_make_a_png_damaged() -> None:
    def with_texts(count: int) -> bytes:
        texts = PngImagePlugin.PngInfo()
        for number in range(count):
            texts.add_text(f"text {number}", "x" * 1_000_000, zip=True)
        return encoded(scene(), pnginfo=texts)

    assert np.array_equal(pixels(with_texts(8)), pixels(PLAIN))
    with pytest.raises(BadImage):
        pixels(with_texts(9))


def test_a_jpeg_that_is_refined_without_end_is_refused_before_it_is_decoded() -> None:
    whole = encoded(Image.new("L", (900, 900)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]  # a table and the scan that uses it: some dozens of bytes
    for see in (pixels, lambda data: to_encoded(data, LIMIT)):
        see(whole[:-2] + last * 50 + whole[-2:] + last * 500)
        with pytest.raises(TooLarge, match="scans"):
            see(whole[:-2] + last * 500 + whole[-2:])


def test_a_picture_that_takes_long_is_left_alone_in_a_hurry() -> None:
    large, sideways = picture(size=(2000, 1100)), Image.Exif()
    sideways[0x0112] = 6
    photo, refined = encoded(large, "JPEG", exif=sideways), encoded(large, "JPEG", progressive=True, exif=sideways)
    notes = encoded(picture(), "JPEG", comment=b"x" * 60_000)
    notes = notes[:2] + b"\xff\xfe\0\2" * (SMALL // 4) + notes[2:]
    in_time, late = [PLAIN, photo], [encoded(large), refined, notes]
    for data in in_time:
        to_pixels(data, WANTED, 10**7, hurry=True)
    for data in late:
        with pytest.raises(TakesLong):
            to_pixels(data, WANTED, 10**7, hurry=True)
        assert to_pixels(data, WANTED, 10**7).shape == (8, 4, 3)
    to_encoded(encoded(large), 10**7, hurry=True)  # nothing is decoded
    for data in (photo, refined, notes):
        with pytest.raises(TakesLong):
            to_encoded(data, 10**7, hurry=True)


def test_a_png_that_lacks_its_palette_is_damaged() -> None:
    for see in (pixels, as_tensorflow_sees):
        with pytest.raises(BadImage, match="damaged or incomplete"):
            see(raw_png(8, 3, b"\1" * 8, b""))


def test_a_long_row_of_pixels_is_refused_because_its_decoder_may_need_the_square_of_it() -> None:
    palette, skip_255_rows = bytes(8), b"\0\2\0\xff"
    header = struct.pack("<IiiHHIIiiII", 40, 50_000_000, 1, 1, 8, 1, len(skip_255_rows), 0, 0, 2, 0)
    bomb = b"BM" + struct.pack("<IHHI", 66, 0, 0, 62) + header + palette + skip_255_rows
    with pytest.raises(TooLarge, match="on a side"):
        to_pixels(bomb, WANTED, 50_000_000)
    with pytest.raises(TooLarge, match="on a side"):
        to_encoded(bomb, 50_000_000)


def test_what_tensorflow_reads_faithfully_is_not_touched() -> None:
    for data in (VARIANTS["jpeg"], VARIANTS["progressive jpeg"], PLAIN, encoded(scene().convert("L"), "JPEG")):
        assert to_encoded(data, LIMIT) is data


def test_the_first_picture_of_a_phones_double_photograph_counts() -> None:
    file = io.BytesIO()
    scene().save(file, "MPO", save_all=True, append_images=[picture("black", (32, 64))], quality=95)
    assert np.abs(pixels(file.getvalue()) - pixels(PLAIN)).mean() < 6
    assert to_encoded(file.getvalue(), LIMIT) is file.getvalue() or as_tensorflow_sees(file.getvalue()).shape[0] == 64


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_moving_picture_is_refused(kind: str) -> None:
    moving = encoded(picture("red"), kind, save_all=True, append_images=[picture("blue")], duration=100)
    for read in (pixels, as_tensorflow_sees):
        with pytest.raises(NotAnImage, match="moves"):
            read(moving)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_picture_is_damaged_and_not_half_a_picture(kind: str, share: float) -> None:
    rng = np.random.default_rng(1)
    whole = encoded(Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)), kind)
    with pytest.raises(BadImage, match="damaged or incomplete"):
        pixels(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "data",
    [
        b"hello", b"RIFF\x24\0\0\0WAVEfmt ",
        b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 99,
        encoded(picture(), "TIFF"), encoded(picture(), "ICO"), encoded(picture(), "PPM"), encoded(picture(), "EPS"),
    ],
)  # fmt: skip
def test_other_files_are_not_images_whatever_pillow_could_do_with_them(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="JPEG, PNG, GIF, BMP, WEBP"):
        pixels(data)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(BadImage, match="empty"):
        pixels(b"")


def huge_png(width: int, height: int) -> bytes:
    """The header of such a picture, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    for read in (lambda data: to_pixels(data, WANTED, 50_000_000), lambda data: to_encoded(data, 50_000_000)):
        with pytest.raises(TooLarge, match="20000×20000"):
            read(huge_png(20000, 20000))


def test_as_many_pixels_as_allowed_are_read() -> None:
    assert pixels(png(size=(10, 10)), limit=100).shape == (8, 4, 3)
    with pytest.raises(TooLarge):
        pixels(png(size=(10, 10)), limit=99)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_matter() -> None:
    data = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=95)
    assert np.abs(pixels(data) - pixels(PLAIN)).mean() < 6


def test_cropping_keeps_the_middle_and_its_proportions() -> None:
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 255
    middle = pixels(encoded(Image.fromarray(stripes)), Pixels(8, 8, resize="crop", filter="nearest"))
    assert middle.min() == 255


def test_pixels_are_shifted_and_scaled_per_channel_and_can_be_turned_around() -> None:
    orange = encoded(picture((200, 100, 0)))
    scaled = pixels(orange, Pixels(1, 1, mean=(100.0, 50.0, 10.0), std=(2.0,), bgr=True))
    assert scaled.tolist() == [[[(0 - 100) / 2, (100 - 50) / 2, (200 - 10) / 2]]]


def test_an_integer_input_gets_integers_and_a_gray_input_one_channel() -> None:
    one = pixels(encoded(picture((255, 255, 255))), Pixels(2, 2, channels=1, dtype="uint8"))
    assert (one.dtype, one.shape, int(one.max())) == (np.uint8, (2, 2, 1), 255)


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_that_can_be_asked_for_exists(name: str) -> None:
    assert pixels(PLAIN, Pixels(4, 4, filter=name)).shape == (4, 4, 3)


def test_a_large_photograph_is_decoded_small_and_looks_the_same() -> None:
    rng = np.random.default_rng(2)
    blocks = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    photo, exact = encoded(blocks, "JPEG", quality=95), encoded(blocks, "PNG")
    wanted = Pixels(96, 128)
    assert np.abs(to_pixels(photo, wanted, 10**7) - to_pixels(exact, wanted, 10**7)).mean() < 2


@given(st.data())
def test_no_damage_raises_anything_but_our_own_errors(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([PLAIN, *VARIANTS.values()]))
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    for read in (pixels, lambda image: to_encoded(image, LIMIT)):
        try:
            read(bytes(broken))
        except ClusterError as error:
            assert error.status < 500  # noqa: PT017


def test_postscript_never_reaches_an_interpreter(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({canary}) (w) file closefile\n"
    with pytest.raises(NotAnImage):
        pixels(program.encode())
    assert not canary.exists()
