"""From the bytes of an image file to what a model wants; the only importer of Pillow.

Used by `worker.inference`, in threads. Every file is somebody's and may be meant to do harm: only raster formats that
browsers show are read, by what the data is and not by what it is called; the size in the header is checked before any
pixel is decoded; whatever Pillow raises becomes one of `NotAnImage`, `BadImage`, `TooLarge`. Who is in a hurry is told
`TakesLong` instead of an answer.

What is decided here, for every model alike: EXIF orientation is applied, transparency is put on white, 16-bit gray
keeps its upper 8 bits, CMYK and palettes become RGB, and moving pictures are refused rather than judged by a frame.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin

from muster.errors import BadImage, ClusterError, NotAnImage, TooLarge
from worker.image_files import END_OF_JPEG, MOST_SCANS, START_OF_PNG, has_all_pixels, is_intact, scans
from worker.models.preprocessing import Pixels

T = TypeVar("T")

# Naming the plugins also imports them now; Pillow would do so while the first image waits.
FORMATS: Final = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
# A JPEG with further pictures inside, as many phones make them, is an "MPO" to Pillow; the first is the photograph.
PHOTOGRAPHS: Final = (JpegImagePlugin.JpegImageFile.format, MpoImagePlugin.MpoImageFile.format)
MAGIC: Final = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|RIFF....WEBP", re.DOTALL)
ORIENTATION: Final = 0x0112
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS: Final = (5, 6, 7, 8)
QUICK: Final = 2_000_000
"""Pixels that are decoded in a few hundredths of a second."""
SMALL: Final = 1024 * 1024
"""Bytes of a file that Pillow gets through in a fraction of a second, even if it is all headers."""
DAMAGED: Final = "the image is damaged or incomplete"
TAIL: Final = 64 * 1024
"""Bytes at the end of a JPEG in which the mark of its end is looked for; some programs write notes behind it."""
LONGEST_SIDE: Final = 65_535
"""Pixels; JPEG and GIF know no longer side. Some decoders need memory by the square of it, whatever the other side."""

# Pillow's own limit warns at one size and raises at twice that; ours is a setting, and every path below checks it.
Image.MAX_IMAGE_PIXELS = None
# Bytes of texts in a PNG, unpacked; they are small when packed, and Pillow unpacks them all before any pixel.
PngImagePlugin.MAX_TEXT_MEMORY = 8 * 1024 * 1024
# Pillow complains on stderr about oddities of a picture that it reads nevertheless: somebody else's, and without end.
warnings.filterwarnings("ignore", module=r"PIL\.")


class TakesLong(Exception):
    """The image is sound so far, and so large that decoding it takes a while."""


def to_pixels(data: bytes, wanted: Pixels, max_pixels: int, *, hurry: bool = False) -> NDArray[Any]:
    """The image in `data` as an array of shape (height, width, channels) and of the type that `wanted` says."""
    return _guarded(data, hurry, lambda: _to_pixels(data, wanted, max_pixels, hurry))


def to_encoded(data: bytes, max_pixels: int, *, hurry: bool = False) -> bytes:
    """The image in `data` as a file that TensorFlow's decoders show as people see it: JPEG or PNG, upright, 8-bit.

    `data` itself where it is one already, which is looked up in its header without decoding it.
    """
    return _guarded(data, hurry, lambda: _to_encoded(data, max_pixels, hurry))


def _guarded(data: bytes, hurry: bool, work: Callable[[], T]) -> T:
    if hurry and len(data) > SMALL:
        raise TakesLong
    try:
        return work()
    except (ClusterError, MemoryError, TakesLong):
        raise
    except Exception as error:  # Pillow's plugins raise of every kind for damaged data
        raise _refusal(data, error) from error


def _refusal(data: bytes, error: Exception) -> ClusterError:
    if not data:
        return BadImage("the image is empty")
    if MAGIC.match(data):
        return BadImage(DAMAGED)
    return NotAnImage(f"this is not an image of a kind that is read here ({', '.join(FORMATS)})")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if data.startswith(START_OF_PNG) and not is_intact(data):
        raise BadImage(DAMAGED)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if isinstance(image, PngImagePlugin.PngImageFile):
        if image.mode == "P" and image.palette is None:
            raise BadImage(DAMAGED)
        _bring_transparent_colour_to_8_bits(image)
    width, height = image.size
    if max(width, height) > LONGEST_SIDE:
        raise TooLarge(f"the image has {width}×{height} pixels; at most {LONGEST_SIDE} on a side are read")
    if width * height > max_pixels:
        raise TooLarge(f"the image has {width}×{height} pixels; at most {max_pixels} are read", max_pixels=max_pixels)
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise NotAnImage("the image moves; send a single frame of it")
    if "progressive" in image.info and scans(data) > MOST_SCANS:
        raise TooLarge(f"the image is stored in more than {MOST_SCANS} scans, which is no way to store an image")
    return image


def _check_quick(image: Image.Image, whole: int) -> None:
    """Raises TakesLong unless `image`, which stands for `whole` pixels of a file, is decoded soon."""
    every = whole if "progressive" in image.info else whole // 8  # of a small version of a JPEG most is never computed
    if max(image.width * image.height, every) > QUICK:
        raise TakesLong


def _to_pixels(data: bytes, wanted: Pixels, max_pixels: int, hurry: bool) -> NDArray[Any]:
    image = _open(data, max_pixels)
    whole = image.width * image.height
    orientation = _orientation(image)
    if image.format in PHOTOGRAPHS:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8; down to twice the target that is far faster and looks the same.
        width, height = (wanted.height, wanted.width) if orientation in SIDEWAYS else (wanted.width, wanted.height)
        image.draft(None, (2 * width, 2 * height))
    if hurry:
        _check_quick(image, whole)
    _load(image, data)
    image = _plain(image)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    image = image.convert("L" if wanted.channels == 1 else "RGB")
    size, resample = (wanted.width, wanted.height), Image.Resampling[wanted.filter.upper()]
    image = image.resize(size, resample, box=_middle(image.size, size) if wanted.resize == "crop" else None)
    return _scaled(np.asarray(image).reshape(wanted.height, wanted.width, wanted.channels), wanted)


def _to_encoded(data: bytes, max_pixels: int, hurry: bool) -> bytes:
    image = _open(data, max_pixels)
    orientation = _orientation(image)
    if (
        image.format in (*PHOTOGRAPHS, "PNG")
        and image.mode in ("L", "RGB")
        and orientation not in UPRIGHT
        and not _transparent(image)
        and (image.format == "PNG" or END_OF_JPEG in data[-TAIL:])  # TensorFlow complains of cut ones on stderr
    ):
        return data
    if hurry:
        _check_quick(image, image.width * image.height)
    _load(image, data)
    image = _plain(image)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _load(image: Image.Image, data: bytes) -> None:
    """Decode the pixels. Raises BadImage if a PNG ends before they do: Pillow leaves the rest black."""
    image.load()
    if image.format == "PNG":
        last = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
        if (image.info.get("interlace") or not last.any()) and not has_all_pixels(data):
            raise BadImage(DAMAGED)


def _orientation(image: Image.Image) -> int:
    """How the camera was held, in EXIF's numbers; 1 is upright."""
    # Asking Pillow makes it decode a PNG to its end, in case something follows the pixels. So it is asked only if
    # something stands before them.
    if not any(key in image.info for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  # a damaged EXIF block is no reason to refuse a sound picture
        return 1


def _bring_transparent_colour_to_8_bits(image: PngImagePlugin.PngImageFile) -> None:
    """A PNG names its transparent colour in its own depth; Pillow leaves it so and compares it with 8-bit pixels."""
    colour, stored = image.info.get("transparency"), image.tile[0].args
    if isinstance(colour, int) and stored in ("L;2", "L;4"):
        most = 3 if stored == "L;2" else 15
        image.info["transparency"] = (colour & most) * 255 // most
    elif isinstance(colour, tuple) and stored == "RGB;16B":
        image.info["transparency"] = tuple(part >> 8 for part in colour)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _plain(image: Image.Image) -> Image.Image:
    """The decoded image as 8-bit gray ("L") or "RGB", on white where it is transparent."""
    if image.mode == "I;16":
        return _upper_bits(image)
    if _transparent(image):
        image = image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image.convert("RGB"), mask=image.getchannel("A"))
        return ground
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray, white where it has the colour that is declared to be transparent."""
    deep = np.asarray(image)
    pixels = (deep >> 8).astype(np.uint8)
    if "transparency" in image.info:
        pixels[deep == image.info["transparency"]] = 255
    return Image.fromarray(pixels)


def _middle(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of `wanted`'s proportions in the middle of `size`."""
    (width, height), (wanted_width, wanted_height) = size, wanted
    scale = min(width / wanted_width, height / wanted_height)
    left, top = (width - wanted_width * scale) / 2, (height - wanted_height * scale) / 2
    return left, top, width - left, height - top


def _scaled(pixels: NDArray[np.uint8], wanted: Pixels) -> NDArray[Any]:
    if wanted.bgr and wanted.channels == 3:
        pixels = pixels[..., ::-1]
    if wanted.mean == (0.0,) and wanted.std == (1.0,):
        return pixels.astype(wanted.dtype)
    numbers = pixels.astype(np.float32)
    numbers -= np.asarray(wanted.mean, np.float32)
    numbers /= np.asarray(wanted.std, np.float32)
    return numbers.astype(wanted.dtype, copy=False)
