"""Every block of the documents that says it can be run is run, and prints what the document shows."""

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import blocks_of, difference
from tests.docs.conftest import Reader

DOCUMENTS = {path.name: path for path in (ROOT / "README.md", ROOT / "docs/api.md", ROOT / "docs/clients.md")}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_examples_of_a_document_print_what_it_shows(name: str, reader: Reader) -> None:
    blocks = [block for block in blocks_of(DOCUMENTS[name]) if block.is_run]
    assert blocks
    for block in blocks:
        printed = reader.run(block)
        if block.shown is not None:
            found = difference(block.shown, printed)
            assert found is None, f"{name}, line {block.line}: {found}\n{printed}"
