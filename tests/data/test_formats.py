"""Formats of image files: recognized by suffix or first bytes; names in natural order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emmeter.data import formats


@pytest.mark.parametrize(
    "content", [b"BM", b"BMW, a list of cars, and more of it", b"P5 is a town", b"GIF", b"", b"II, the second"]
)
def test_texts_are_not_pictures(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert not formats.is_picture(tmp_path / "x")


@pytest.mark.parametrize("name", ["a.png", "a.JPEG", "a.dng", "a.npz"])
def test_suffixes_of_images_need_no_look(tmp_path, name):
    """Other formats count too, so that they are refused instead of ignored.  The file need not exist."""
    assert formats.is_named(tmp_path / name)
    assert formats.is_picture(tmp_path / name)


# -- order


@pytest.mark.parametrize(
    "names",
    [
        ["0", "1", "2", "3", "9", "10", "11", "100"],
        ["a1.png", "a2.png", "a10.png", "b1.png"],
        ["01", "1", "2"],
        ["img2-9", "img2-10", "img10-1"],
        ["٢", "3", "١٠", "11"],
        ["1", "1a", "1b", "2", "10a"],
    ],
)
def test_natural_order(names):
    for rotation in range(len(names)):
        assert sorted(names[rotation:] + names[:rotation], key=formats.natural) == names


NAMES = st.lists(st.text(st.sampled_from("019٣²a.-_ B"), max_size=6), unique=True, max_size=8)


@given(NAMES, st.randoms())
def test_any_names_have_one_order(names, random):
    shuffled = random.sample(names, len(names))
    assert sorted(shuffled, key=formats.natural) == sorted(names, key=formats.natural)


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("aB.-_~ ²"), max_size=4),
            st.integers(0, 999),
            st.text(st.sampled_from("xY.!"), max_size=3),
        )
    )
)
def test_names_that_are_padded_keep_their_order(parts):
    names = [f"{before}{number:03}{after}" for before, number, after in parts]
    assert sorted(names, key=formats.natural) == sorted(names)
