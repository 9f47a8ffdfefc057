from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.prediction.output_names import output_names


def test_jpeg_and_png_keep_their_names_and_the_rest_becomes_png_or_mp4() -> None:
    assert output_names(["/a/x.JPG", "/a/y.png", "/a/z.tif", "/a/v.avi"]) == ["x.JPG", "y.png", "z.png", "v.mp4"]


def test_equal_names_from_different_folders_get_the_names_of_the_folders() -> None:
    assert output_names(["/d/mon/1.jpg", "/d/tue/1.jpg", "/d/tue/2.jpg"]) == ["mon_1.jpg", "tue_1.jpg", "2.jpg"]
    assert output_names(["/x/s/1.jpg", "/y/s/1.jpg"]) == ["x_s_1.jpg", "y_s_1.jpg"]


def test_one_image_in_two_formats_gets_two_pictures() -> None:
    assert output_names(["/a/1.png", "/a/1.tif"]) == ["1.png", "1_tif.png"]


@given(st.lists(st.from_regex(r"(/[aAb_]{1,2}){1,3}/[1aA_]{1,2}\.(png|tif|TIF|mp4|mov)", fullmatch=True), unique=True))
def test_no_two_pictures_have_the_same_name(paths: list[str]) -> None:
    names = [name.casefold() for name in output_names(paths)]
    assert len(set(names)) == len(paths)


def test_names_without_their_suffixes_are_distinct_where_one_suffix_is_kept() -> None:
    names = output_names(["a/1.jpg", "a/1.png", "a/2.jpg", "b/2.png"], kept=(".png",))
    assert names == ["1_jpg.png", "1.png", "a_2.png", "b_2.png"]
