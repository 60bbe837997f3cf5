"""Numbers in STAR columns: read many at a time, to the same bits as `float` reads each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobox.formats.star_table import read_blocks

TEXTS = st.one_of(
    st.from_regex(r"-?[0-9]{0,9}\.?[0-9]{1,9}", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]{1,20}\.?[0-9]{0,20}", fullmatch=True),
    st.floats(allow_nan=False).map(repr),
    st.sampled_from(["-0.000000", "-.5", "5.", "1e5", "-1E-3", "inf", "0", "123456789012345", "9007199254740993"]),
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=30))
def test_every_number_has_the_bits_that_float_gives(texts: list[str], tmp_path_factory) -> None:
    path = Path(tmp_path_factory.mktemp("numbers") / "table.star")
    path.write_text("data_\n\nloop_\n_rlnCoordinateX\n" + "\n".join(texts) + "\n")
    found = read_blocks(path)[""].table().floats("_rlnCoordinateX")
    expected = np.array([float(text) for text in texts])
    np.testing.assert_array_equal(found.view(np.uint64), expected.view(np.uint64))
