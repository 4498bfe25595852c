import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from clickherd.data.hashing import TextIndex, hash_rows, hash_texts


def test_hashes_are_the_same_on_every_machine():
    # computed by hand in Python's integers from the definition: FNV-1a, then MurmurHash3's finaliser
    def by_hand(text):
        value, mask = 0xCBF29CE484222325, (1 << 64) - 1
        for byte in text.encode():
            value = ((value ^ byte) * 0x100000001B3) & mask
        value = ((value ^ (value >> 33)) * 0xFF51AFD7ED558CCD) & mask
        value = ((value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53) & mask
        return value ^ (value >> 33)

    texts = ["", "a", "user_42", "käse", "x" * 100]
    assert hash_texts(pl.Series(texts)).tolist() == [by_hand(text) for text in texts]


def test_whole_floats_hash_as_integers():
    same = hash_texts(pl.Series(["7", "7.0", "-7", "-7.0", "0", "0.0"]))
    assert same[0] == same[1]
    assert same[2] == same[3]
    assert same[4] == same[5]
    different = hash_texts(pl.Series(["7", "7.00", "07.0", ".0", "-.0", "x.0", "1.5.0", "7."]))
    assert len(set(different.tolist())) == 8


@given(
    st.lists(st.text(), unique=True, max_size=50).filter(lambda keys: not any(key.endswith(".0") for key in keys)),
    st.lists(st.text(), max_size=50),
)
def test_index_finds_exactly_its_keys(keys, others):
    index = TextIndex(pl.Series(keys, dtype=pl.String))
    where = {key: i for i, key in enumerate(keys)}
    sought = [text for text in [*others, *keys] if not text.endswith(".0")]
    found = index.find(pl.Series(sought, dtype=pl.String))
    assert found.tolist() == [where.get(text, -1) for text in sought]


def test_index_of_a_sliced_column():
    index = TextIndex(pl.Series(["b", "c"]))
    assert index.find(pl.Series(["a", "b", None, "c"])[1:]).tolist() == [0, -1, 1]


def test_row_hashes_do_not_depend_on_chunks_and_differ_by_seed():
    whole = hash_rows(0, 100, seed=3)
    assert np.array_equal(np.concatenate([hash_rows(0, 30, 3), hash_rows(30, 70, 3)]), whole)
    assert not np.isin(hash_rows(0, 100, seed=4), whole).any()


def test_a_missing_text_hashes_as_the_empty_one_whatever_it_was_before():
    texts = pl.Series(["NA", "a", "NULL", ""])
    masked = pl.select(pl.when(~texts.is_in(["NA", "NULL"])).then(texts)).to_series()
    assert hash_texts(masked).tolist() == hash_texts(pl.Series(["", "a", None, ""])).tolist()
    assert TextIndex(pl.Series(["NA", "a"])).find(masked).tolist() == [-1, 1, -1, -1]
